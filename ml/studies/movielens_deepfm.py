"""DeepFM on MovieLens 1M split at random, beside what the literature reports for that split.

The protocol is that of AutoInt (Song et al., 2019, arXiv 1810.11921, section 5.1) and of RecBole's benchmark (Zhao et al.,
2021, arXiv 2011.01731): four and five stars are positive, one and two negative, ratings of three stars left out; of the rest
80 % are for training, 10 % for validation, 10 % for the test. What the models look at differs between the two, and so do their
figures, by 0.06 of AUC: AutoInt's know neither the user nor the movie, only what they are like.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from upath import UPath

from ml.metrics import auc
from ml.metrics import summary as figures_of
from ml.models.predict import predict
from ml.recipes.recipe import load_recipe
from ml.schema import FeatureSchema
from ml.studies.movielens_1m import ALL, Ratings
from ml.training.passes import train_pass
from ml.training.state import new_state

SCHEMA = FeatureSchema(dense=(), single=ALL, multi=("genres",), fingerprint="movielens-1m")
NEUTRAL = 3  # stars
RECIPE = {  # chosen on the validation split of seed 0; embeddings of 16 as both sources have, widths as the recipe has
    "model": {"dropout": 0.1},
    "tables": {"init_scale": 0.01},
    "table_optimizer": {"lr": 0.1, "initial_accumulator": 0.0},
    "dense_optimizer": {"lr": 0.002, "weight_decay": 0.0},
    "schedule": {"warm_up": 0.0, "decay_start": 1.0, "decay_to": 1.0},
    "batch_size": 1024,
}


@dataclass(frozen=True)
class Published:
    """DeepFM's figures on the test split as others report them. differs: from what is done here."""

    auc: float
    log_loss: float
    source: str
    differs: str


@dataclass(frozen=True)
class Protocol:
    """exclude_features: features that the model ignores. neutral: whether ratings of three stars stay, as not liked."""

    exclude_features: tuple[str, ...]
    neutral: bool = False
    published: Published | None = None


RECBOLE = Published(
    auc=0.8997,
    log_loss=0.3150,
    source="RecBole at 7df0b5c, benchmark/hyper/context/DeepFM-ml-1m.md and benchmark/md/ml-1m_context.md",
    differs="one run, the best of ten settings on validation",
)
AUTOINT = Published(
    auc=0.8437,
    log_loss=0.3846,
    source="AutoInt (Song et al., 2019, arXiv 1810.11921v2), table 5",
    differs="mean of ten runs; also looks at when a movie was rated, which this copy of the data does not hold; "
    "years of release before 1970 are decades there",
)
PROTOCOLS = {
    "ids and attributes": Protocol(exclude_features=("zip",), published=RECBOLE),
    "attributes alone": Protocol(exclude_features=("user", "movie"), published=AUTOINT),
    "ids and attributes, all ratings": Protocol(exclude_features=("zip",), neutral=True),
}


@dataclass(frozen=True)
class Run:
    """One protocol under one seed. validation: AUC after each epoch. epoch: the best there, from 1. auc, log_loss: on the test
    split, after that epoch. samples_per_second: of training, median over the epochs, on this machine at that hour."""

    protocol: str
    seed: int
    validation: list[float]
    epoch: int
    auc: float
    log_loss: float
    samples_per_second: float


def run_study(
    ratings: Ratings,
    seeds: int = 3,
    epochs: int = 30,
    patience: int = 2,
    on_result: Callable[[Run], None] | None = None,
) -> list[Run]:
    """Every protocol under seeds 0, 1, …, each of which fixes split, order and first weights.
    `on_result` receives each run as it ends.

    ratings: with the features of `ALL`. A run ends after `epochs`, or `patience` epochs without a better AUC on validation.
    """
    runs = []
    for name in PROTOCOLS:
        for seed in range(seeds):
            run = run_once(name, ratings, seed, epochs, patience)
            runs.append(run)
            if on_result is not None:
                on_result(run)
    return runs


def rated(ratings: Ratings, protocol: Protocol) -> Ratings:
    """What the protocol is about."""
    return ratings if protocol.neutral else ratings.take(np.flatnonzero(ratings.stars != NEUTRAL))


def split(count: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Rows for training, validation and test: 80, 10 and 10 of a hundred, drawn at random."""
    test, validation, training = np.split(np.random.default_rng(seed).permutation(count), [count // 10, count // 10 * 2])
    return training, validation, test


def run_once(name: str, ratings: Ratings, seed: int, epochs: int, patience: int) -> Run:
    """Validation picks the epoch; the labels of the test split meet the predictions of that epoch's model alone."""
    protocol = PROTOCOLS[name]
    ratings = rated(ratings, protocol)
    recipe = load_recipe("deepfm", {**RECIPE, "exclude_features": protocol.exclude_features, "seed": seed})
    training, validation, test = split(len(ratings), seed)
    looked_at, scored = (list(ratings.batches(rows, 8192)) for rows in (validation, test))
    rng, state = np.random.default_rng([seed, 1]), new_state(recipe, SCHEMA)
    scores: list[float] = []
    speeds: list[float] = []
    best, predicted = 0, np.empty(0, np.float32)
    while len(scores) < epochs and len(scores) - best < patience:
        state.begin_pass()
        batches = ratings.batches(rng.permutation(training), recipe.batch_size)
        report = train_pass(state, batches, total_steps=math.ceil(len(training) / recipe.batch_size))
        speeds.append(report.samples_per_second)
        found = auc(ratings.label[validation], predict(state.model, looked_at))
        if found is None:
            raise ValueError(f"{name}, seed {seed}: the {len(validation)} ratings for validation are of one class")
        scores.append(found)
        if found > max(scores[:-1], default=-math.inf):
            best, predicted = len(scores), predict(state.model, scored)
    figures = figures_of(ratings.label[test], predicted)
    return Run(
        name,
        seed,
        scores,
        best,
        auc=_defined(figures["auc"]),
        log_loss=_defined(figures["log_loss"]),
        samples_per_second=statistics.median(speeds),
    )


def _defined(figure: float | None) -> float:
    return math.nan if figure is None else float(figure)


def summary(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """Of each protocol: means over the seeds, standard deviations as `<figure>_spread`, and what was published. The spread of a
    few seeds tells how far apart they lie, and is no interval for the mean."""
    found: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(run.protocol for run in runs):
        own, published = [run for run in runs if run.protocol == name], PROTOCOLS[name].published
        found[name] = {"seeds": len(own), "published": asdict(published) if published else None}
        for figure in ("auc", "log_loss", "epoch", "samples_per_second"):
            values = [getattr(run, figure) for run in own]
            found[name][figure] = statistics.fmean(values)
            found[name][f"{figure}_spread"] = statistics.stdev(values) if len(values) > 1 else 0.0
    return found


def write_study(folder: Path | UPath, runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """`runs.json` and `summary.json`. Gives the summary."""
    found = summary(runs)
    (folder / "runs.json").write_text(json.dumps([asdict(run) for run in runs], indent=1))
    (folder / "summary.json").write_text(json.dumps(found, indent=1))
    return found
