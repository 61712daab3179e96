"""The cost of collisions by day: DeepFM on Globo.com's log over three kinds of tables of equal memory.

The tables are collisionless, quotient-remainder and hashed.

The experiment follows figure 8 of Monolith (Liu et al., 2022, arXiv 2209.07663), which compares tables by the AUC of each day
in production. The model of each day continues from the day before, and is scored on the next day before it is trained on it.
Tables of users, items and histories differ between the variants; those of all other features do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ml.catalog.spec import DatasetSpec
from ml.compute.runner import Runner
from ml.datasets.batch import Batch
from ml.datasets.collate import batch_from_arrow
from ml.evaluation.plots import lines
from ml.evaluation.rows import chunks
from ml.features.clean import clean_day
from ml.hashing import mix64_array
from ml.lake import Lake
from ml.logs.ingest import ingest_day
from ml.recipes.recipe import Recipe, load_recipe
from ml.schema import FeatureSchema
from ml.stages import CLEANED_FEATURES
from ml.studies.embedding_collisions import COLLISIONLESS, Curve, equal_memory
from ml.training.passes import train_pass
from ml.training.score import EVALUATION_BATCH, score
from ml.training.state import new_state

IDS = ("user", "item", "history")
USER = "user"
BATCH = 512


def prepare_features(spec: DatasetSpec, days: Sequence[str], lake: Lake, landing: str, runner: Runner) -> None:
    """Write `raw_logs` and `cleaned_features` of the days whose features are not in the lake yet."""
    for day in days:
        if not lake.has(CLEANED_FEATURES, spec.name, day):
            ingest_day(spec.log, day, landing, lake, runner)
            clean_day(spec, day, lake, landing, runner, None)


def read_days(spec: DatasetSpec, days: Sequence[str], lake: Lake, share: float) -> dict[str, pa.Table]:
    """Read the features of a sample of the users, chosen by the hash of their ids, so that a user is in all days or in none.

    Args:
        spec: The dataset, with a feature `user`.
        days: Days whose `cleaned_features` are in the lake.
        lake: Where features are stored.
        share: Share of the users, in (0, 1].
    """
    return {day: pa.concat_tables(_sampled(rows, share) for rows in chunks(lake, spec, day)) for day in days}


def run_study(
    spec: DatasetSpec, tables: Mapping[str, pa.Table], seeds: int = 3, on_result: Callable[[Curve], None] | None = None
) -> list[Curve]:
    """Train every variant on the days in order under every seed. The seed sets the initial weights.

    Args:
        spec: The dataset.
        tables: Features by day, in order, as `read_days` returns them.
        seeds: Number of runs of each variant.
        on_result: Called with each curve as soon as it is known.

    Returns:
        A curve for each seed and variant: the AUC of each day after the first, and the bytes of the tables of `IDS` after the
        last day that was trained on. The bytes of the collisionless tables set the sizes of the others.

    Raises:
        ValueError: There are fewer than two days.
    """
    if len(tables) < 2:
        raise ValueError(f"the study needs at least two days, found {list(tables)}")
    curves = []
    for seed in range(seeds):
        plain = _recipe(spec, seed, {name: {"kind": "collisionless"} for name in IDS})
        curve, budget = _curve(COLLISIONLESS, plain, spec, tables)
        curves.append(curve)
        if on_result is not None:
            on_result(curve)
        for name, features in equal_memory(budget, plain.model.embedding_dim).items():
            curves.append(_curve(name, _recipe(spec, seed, features), spec, tables)[0])
            if on_result is not None:
                on_result(curves[-1])
    return curves


def figure(found: Mapping[str, Any]) -> bytes:
    """Plot mean and spread of the AUC by day as a PNG. found: the result of `embedding_collisions.summary`."""
    curves = {name: (of["auc"], of["auc_spread"]) for name, of in found.items()}
    return lines("Collisions by day: DeepFM, Globo.com", "scored day", "AUC of the next day", curves)


def _sampled(rows: pa.Table, share: float) -> pa.Table:
    hashed = mix64_array(rows[USER].to_numpy().view(np.uint64))
    return rows.filter(pa.array(hashed < np.float64(share) * 2.0**64))


def _batches(table: pa.Table, schema: FeatureSchema, rows: int) -> Iterator[Batch]:
    for first in range(0, table.num_rows, rows):
        yield batch_from_arrow(table.slice(first, rows), schema)


def _curve(name: str, recipe: Recipe, spec: DatasetSpec, tables: Mapping[str, pa.Table]) -> tuple[Curve, dict[str, int]]:
    """Train one variant. Returns its curve, and the bytes of each table of `IDS`."""
    schema = FeatureSchema.of(spec)
    state, days, scores = new_state(recipe, schema), list(tables), list[float]()
    for day in days:
        if day != days[0]:
            scores.append(score(state, _batches(tables[day], schema, EVALUATION_BATCH))["auc"] or 0.5)
        if day != days[-1]:
            state.begin_pass()
            total = -(-tables[day].num_rows // recipe.batch_size)
            train_pass(state, _batches(tables[day], schema, recipe.batch_size), total_steps=total)
    nbytes = {feature: state.stats()[feature].nbytes for feature in IDS}
    return Curve(name, recipe.seed, scores, sum(nbytes.values())), nbytes


def _recipe(spec: DatasetSpec, seed: int, features: Mapping[str, Any]) -> Recipe:
    """Load the catalog's DeepFM with the dataset's tables, except those of `IDS`."""
    own = spec.recipe.overrides.get("tables", {}).get("features", {})
    return load_recipe("deepfm", {"tables": {"features": {**own, **features}}, "batch_size": BATCH, "seed": seed})
