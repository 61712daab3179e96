"""The cost of collisions: DeepFM on MovieLens 1M over collisionless, hashed and quotient-remainder tables of equal memory.

The experiment follows figure 7 of Monolith (Liu et al., 2022, arXiv 2209.07663): ratings of 3.5 stars and more are positive,
ten epochs, AUC on held-out ratings. User and movie ids are 64-bit hashes; only their tables differ between the variants.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq
from upath import UPath

from ml.evaluation.plots import lines
from ml.models.build import build_model
from ml.recipes.recipe import Recipe, load_recipe
from ml.schema import FeatureSchema
from ml.studies.movielens_1m import SINGLE, Ratings
from ml.training.passes import train_pass
from ml.training.score import score
from ml.training.state import TrainState, new_state

IDS = ("user", "movie")
COLLISIONLESS, QUOTIENT_REMAINDER, HASHED = "collisionless", "quotient-remainder, equal memory", "hashed, equal memory"
SCHEMA = FeatureSchema(dense=(), single=SINGLE, multi=("genres",), fingerprint="movielens-1m")
PAPER_LOST = {"user": 0.0773, "movie": 0.0286}  # fraction of the ids that share a hash, table 1
UNIVERSE = 1 << 20  # largest range that the quotient-remainder variant first hashes 64-bit ids into
BATCH = 1024
HELD_OUT = 10  # one rating in ten is held out


@dataclass(frozen=True)
class Curve:
    """One variant under one seed.

    Attributes:
        variant: Name of the variant.
        seed: Seed of the split, the order and the initial weights.
        auc: AUC on the held-out ratings after each epoch.
        nbytes: Bytes of the tables of users and movies.
    """

    variant: str
    seed: int
    auc: list[float]
    nbytes: int


def run_study(
    ratings: Ratings, seeds: int = 3, epochs: int = 10, on_result: Callable[[Curve], None] | None = None
) -> list[Curve]:
    """Train every variant under every seed.

    Args:
        ratings: Ratings with the features of `SINGLE`.
        seeds: Number of runs of each variant. A seed fixes split, order and initial weights for all variants.
        epochs: Passes over the ratings that are not held out.
        on_result: Called with each curve as soon as it is known.

    Returns:
        A curve for each seed and variant.
    """
    curves = []
    for seed in range(seeds):
        for name, recipe in variants(ratings, seed).items():
            curve = _curve(name, recipe, ratings, seed, epochs)
            curves.append(curve)
            if on_result is not None:
                on_result(curve)
    return curves


def variants(ratings: Ratings, seed: int) -> dict[str, Recipe]:
    """Return the recipes by name. The bytes of the collisionless tables determine the sizes of the other tables."""
    counts = {name: len(np.unique(ratings.single[:, SINGLE.index(name)])) for name in IDS}
    plain = _recipe(seed, {})
    equal = equal_memory(_bytes(plain, ratings), plain.model.embedding_dim)
    as_in_paper = {name: _rows_for_collisions(counts[name], PAPER_LOST[name]) for name in IDS}
    return {
        COLLISIONLESS: plain,
        QUOTIENT_REMAINDER: _recipe(seed, equal[QUOTIENT_REMAINDER]),
        "hashed, as many collisions as in the paper": _recipe(seed, _hashed(as_in_paper)),
        HASHED: _recipe(seed, equal[HASHED]),
    }


def equal_memory(budget: Mapping[str, int], dim: int) -> dict[str, dict[str, Any]]:
    """Return the recipe key `tables.features` of tables with collisions, by variant.

    Args:
        budget: Bytes of each table.
        dim: Weights of a row. A row also has one float of optimizer state.

    Example:
        >>> equal_memory({"user": 6800}, dim=16)["hashed, equal memory"]
        {'user': {'kind': 'hashed', 'rows': 100}}
    """
    rows = {name: nbytes // (4 * (dim + 1)) for name, nbytes in budget.items()}
    parts = {name: _quotient_remainder(count) for name, count in rows.items()}
    return {QUOTIENT_REMAINDER: parts, HASHED: _hashed(rows)}


def summary(curves: list[Curve]) -> dict[str, Any]:
    """Summarise the curves by variant.

    Returns:
        For each variant its bytes, and mean and standard deviation by epoch of its AUC and of its gap to the collisionless
        tables under the same seed.
    """
    by_variant: dict[str, NDArray[np.float64]] = {}
    for curve in curves:
        own = by_variant.get(curve.variant, np.empty((0, len(curve.auc))))
        by_variant[curve.variant] = np.vstack([own, curve.auc])
    best, size = by_variant[COLLISIONLESS], {curve.variant: curve.nbytes for curve in curves}
    return {
        name: {
            "bytes": size[name],
            "auc": values.mean(0).tolist(),
            "auc_spread": values.std(0, ddof=min(1, len(values) - 1)).tolist(),
            "gap": (best - values).mean(0).tolist(),
            "gap_spread": (best - values).std(0, ddof=min(1, len(values) - 1)).tolist(),
        }
        for name, values in by_variant.items()
    }


def figure(found: dict[str, Any]) -> bytes:
    """Plot mean and spread of the AUC by epoch as a PNG."""
    curves = {name: (of["auc"], of["auc_spread"]) for name, of in found.items()}
    return lines("Collisions cost AUC: DeepFM, MovieLens 1M", "epoch", "AUC on held-out ratings", curves)


def write_study(folder: Path | UPath, curves: list[Curve], plot: Callable[[dict[str, Any]], bytes] = figure) -> dict[str, Any]:
    """Write `curves.json`, `summary.json` and `auc.png`, which `plot` draws. Returns the summary."""
    found = summary(curves)
    (folder / "curves.json").write_text(json.dumps([asdict(curve) for curve in curves], indent=1))
    (folder / "summary.json").write_text(json.dumps(found, indent=1))
    (folder / "auc.png").write_bytes(plot(found))
    return found


def _curve(name: str, recipe: Recipe, ratings: Ratings, seed: int, epochs: int) -> Curve:
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(ratings))
    held, seen = order[: len(order) // HELD_OUT], order[len(order) // HELD_OUT :]
    held_out = list(ratings.batches(held, 8192))
    state, scores = new_state(recipe, SCHEMA), []
    for _ in range(epochs):
        state.begin_pass()
        rows = rng.permutation(seen)
        train_pass(state, ratings.batches(rows, BATCH), total_steps=math.ceil(len(rows) / BATCH))
        scores.append(score(state, held_out)["auc"] or math.nan)
    return Curve(name, seed, scores, sum(_table_bytes(state, name) for name in IDS))


def _bytes(recipe: Recipe, ratings: Ratings) -> dict[str, int]:
    """Return the bytes of the tables of users and movies with rows for all ids."""
    model = build_model(recipe, SCHEMA).train()
    with torch.no_grad():
        for batch in ratings.batches(np.arange(len(ratings)), BATCH):
            model(batch.dense, batch.sparse)
    state = TrainState.of(recipe, SCHEMA, model)
    return {name: _table_bytes(state, name) for name in IDS}


def _table_bytes(state: TrainState, table: str) -> int:
    return state.stats()[table].nbytes


def _rows_for_collisions(ids: int, share: float) -> int:
    """Return the number of rows for which, on average, this share of `ids` hashed ids collides with an earlier id."""

    def lost(rows: float) -> float:
        return 1 - rows / ids * -math.expm1(ids * math.log1p(-1 / rows)) - share

    return round(brentq(lost, 2, 1000 * ids))  # type: ignore[arg-type]


def _quotient_remainder(rows: int) -> dict[str, Any]:
    """Return a quotient-remainder table for the largest range of ids that `rows` rows can distinguish."""
    universe = min(UNIVERSE, (rows // 2) ** 2)
    return {"kind": "compositional", "family": "quotient_remainder", "operation": "add", "rows": rows, "universe": universe}


def _hashed(rows: dict[str, int]) -> dict[str, Any]:
    return {name: {"kind": "hashed", "rows": count} for name, count in rows.items()}


def _recipe(seed: int, features: dict[str, Any]) -> Recipe:
    """Load the catalog's DeepFM with learning rates for many epochs: constant, and without an initial accumulator."""
    return load_recipe(
        "deepfm",
        {
            "tables": {"features": features, "init_scale": 0.01},
            "table_optimizer": {"lr": 0.02, "initial_accumulator": 0.0},
            "dense_optimizer": {"lr": 0.001, "weight_decay": 0.0},
            "schedule": {"warm_up": 0.0, "decay_start": 1.0, "decay_to": 1.0},
            "batch_size": BATCH,
            "seed": seed,
        },
    )
