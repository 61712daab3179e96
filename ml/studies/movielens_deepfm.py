"""DeepFM on a random split of MovieLens 1M, compared with published results for that split.

AutoInt (Song et al., 2019, arXiv 1810.11921, section 5.1) and RecBole's benchmark (Zhao et al., 2021, arXiv 2011.01731) define
the protocol: four and five stars are positive, one and two are negative, and ratings of three stars are excluded; 80 % of the
rest are for training, 10 % for validation and 10 % for the test. The two use different features, and their AUCs differ by 0.06:
AutoInt's models read only attributes of users and movies, and not their ids.
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

from ml.recipes.recipe import load_recipe
from ml.schema import FeatureSchema
from ml.studies.movielens_1m import ALL, Ratings
from ml.training.passes import train_pass
from ml.training.score import score
from ml.training.state import new_state

SCHEMA = FeatureSchema(dense=(), single=ALL, multi=("genres",), fingerprint="movielens-1m")
NEUTRAL = 3  # stars
RECIPE = {  # chosen on the validation split of seed 0; embeddings of 16 as in both sources, widths as in the recipe
    "model": {"dropout": 0.1},
    "tables": {"init_scale": 0.01},
    "table_optimizer": {"lr": 0.1, "initial_accumulator": 0.0},
    "dense_optimizer": {"lr": 0.002, "weight_decay": 0.0},
    "schedule": {"warm_up": 0.0, "decay_start": 1.0, "decay_to": 1.0},
    "batch_size": 1024,
}


@dataclass(frozen=True)
class Published:
    """Published results of DeepFM on the test split.

    Attributes:
        auc: AUC.
        log_loss: Mean log loss, in nats.
        source: Where the results were published.
        differs: How the experiment differs from this one.
    """

    auc: float
    log_loss: float
    source: str
    differs: str


@dataclass(frozen=True)
class Protocol:
    """Which features and ratings are used.

    Attributes:
        exclude_features: Features that the model ignores.
        neutral: Whether ratings of three stars are kept, as negatives.
        published: Results to compare with.
    """

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
    differs="mean of ten runs; also uses the time of the rating, which this copy of the data does not hold; "
    "release years before 1970 are grouped by decade",
)
PROTOCOLS = {
    "ids and attributes": Protocol(exclude_features=("zip",), published=RECBOLE),
    "attributes alone": Protocol(exclude_features=("user", "movie"), published=AUTOINT),
    "ids and attributes, all ratings": Protocol(exclude_features=("zip",), neutral=True),
}


@dataclass(frozen=True)
class Run:
    """Result of one protocol under one seed.

    Attributes:
        protocol: Name of the protocol.
        seed: Seed of the split, the order and the initial weights.
        validation: AUC on the validation split after each epoch.
        epoch: The epoch with the best AUC on validation, from 1.
        auc: AUC of that epoch's model on the test split.
        log_loss: Mean log loss of that epoch's model on the test split, in nats.
        samples_per_second: Training throughput on this machine, as the median over the epochs.
    """

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
    """Run every protocol under several seeds.

    Args:
        ratings: Ratings with the features of `ALL`.
        seeds: Number of runs of each protocol. A seed fixes split, order and initial weights.
        epochs: Largest number of passes over the training split.
        patience: Number of passes without a better AUC on validation after which a run ends.
        on_result: Called with each run as soon as it ends.

    Returns:
        A run for each protocol and seed.
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
    """Select the ratings that the protocol uses."""
    return ratings if protocol.neutral else ratings.take(np.flatnonzero(ratings.stars != NEUTRAL))


def split(count: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Draw the rows for training, validation and test at random: 80, 10 and 10 %."""
    test, validation, training = np.split(np.random.default_rng(seed).permutation(count), [count // 10, count // 10 * 2])
    return training, validation, test


def run_once(name: str, ratings: Ratings, seed: int, epochs: int, patience: int) -> Run:
    """Run one protocol under one seed. The test split scores the model of the best epoch on the validation split."""
    protocol = PROTOCOLS[name]
    ratings = rated(ratings, protocol)
    recipe = load_recipe("deepfm", {**RECIPE, "exclude_features": protocol.exclude_features, "seed": seed})
    training, validation, test = split(len(ratings), seed)
    validation_batches, test_batches = (list(ratings.batches(rows, 8192)) for rows in (validation, test))
    rng, state = np.random.default_rng([seed, 1]), new_state(recipe, SCHEMA)
    scores: list[float] = []
    speeds: list[float] = []
    best, tested = 0, dict[str, float | int | None]()
    while len(scores) < epochs and len(scores) - best < patience:
        state.begin_pass()
        batches = ratings.batches(rng.permutation(training), recipe.batch_size)
        report = train_pass(state, batches, total_steps=math.ceil(len(training) / recipe.batch_size))
        speeds.append(report.samples_per_second)
        found = score(state, validation_batches)["auc"]
        if found is None:
            raise ValueError(f"{name}, seed {seed}: the {len(validation)} ratings for validation are of one class")
        scores.append(found)
        if found > max(scores[:-1], default=-math.inf):
            best, tested = len(scores), score(state, test_batches)
    return Run(
        name,
        seed,
        scores,
        best,
        auc=_defined(tested["auc"]),
        log_loss=_defined(tested["log_loss"]),
        samples_per_second=statistics.median(speeds),
    )


def _defined(metric: float | None) -> float:
    return math.nan if metric is None else float(metric)


def summary(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """Summarise the runs by protocol: means over the seeds, standard deviations as `<metric>_spread`, and published results.

    The spread of a few seeds describes the variation between runs; it is not a confidence interval of the mean.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(run.protocol for run in runs):
        own, published = [run for run in runs if run.protocol == name], PROTOCOLS[name].published
        found[name] = {"seeds": len(own), "published": asdict(published) if published else None}
        for metric in ("auc", "log_loss", "epoch", "samples_per_second"):
            values = [getattr(run, metric) for run in own]
            found[name][metric] = statistics.fmean(values)
            found[name][f"{metric}_spread"] = statistics.stdev(values) if len(values) > 1 else 0.0
    return found


def write_study(folder: Path | UPath, runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """Write `runs.json` and `summary.json`. Returns the summary."""
    found = summary(runs)
    (folder / "runs.json").write_text(json.dumps([asdict(run) for run in runs], indent=1))
    (folder / "summary.json").write_text(json.dumps(found, indent=1))
    return found
