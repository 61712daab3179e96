"""Effect of admission and expiry of table rows on rows, memory and AUC, on days of Globo.com's log.

The model of each day continues from the day before, as in daily training, and is scored on the next day, which it has not been
trained on. Readers and articles are among its features.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from upath import UPath

from ml.catalog.spec import DatasetSpec, SparseColumn
from ml.compute.runner import Runner
from ml.datasets.write import write_day
from ml.evaluation.plots import points
from ml.features.clean import clean_day
from ml.lake import Lake
from ml.logs.ingest import ingest_day
from ml.recipes.recipe import recipe_of
from ml.stages import MDS_DATASETS
from ml.training.replay import replay

THRESHOLDS = (1, 10, 20, 50, 100)  # a click gives five examples: one positive and four negatives
LIFETIMES: tuple[float | None, ...] = (None, 2.0, 1.0, 0.5)  # days
IDS = {"reader": "user_id", "article": "click_article_id"}
DAY_SECONDS = 86_400.0


@dataclass(frozen=True)
class Setting:
    """One setting of the tables of readers and articles, and its results.

    Attributes:
        min_count: Number of occurrences after which an id is admitted.
        ttl_days: Lifetime of a row without updates; None keeps rows indefinitely.
        rows: Rows of both tables after the last day trained on.
        nbytes: Bytes of both tables.
        candidates: Ids that wait for admission to either table.
        auc: Mean AUC over the scored days, each scored with the model of the day before.
        auc_by_day: AUC of each scored day.
        unknown_rate: Share of look-ups without a row on the last day trained on.
        seed: Seed of the recipe, from which initial weights and random draws derive.
    """

    min_count: int
    ttl_days: float | None
    rows: int
    nbytes: int
    candidates: int
    auc: float
    auc_by_day: list[float]
    unknown_rate: float
    seed: int


def with_ids(spec: DatasetSpec) -> DatasetSpec:
    """Return the dataset with readers and articles as additional sparse features."""
    more = [SparseColumn(name=name, column=column) for name, column in IDS.items()]
    return spec.model_copy(update={"name": f"{spec.name}-ids", "sparse": (*spec.sparse, *more)})


def prepare(spec: DatasetSpec, days: Sequence[str], lake: Lake, landing: str, runner: Runner) -> None:
    """Write the training data of the days that are not in the lake yet. spec: the dataset that `with_ids` returns."""
    for day in days:
        if not lake.has(MDS_DATASETS, spec.name, day):
            ingest_day(spec.log, day, landing, lake, runner)
            clean_day(spec, day, lake, landing, runner, None)
            write_day(spec, day, lake, runner)


def sweep(
    spec: DatasetSpec, days: Sequence[str], lake: Lake, on_result: Callable[[Setting], None] | None = None
) -> list[Setting]:
    """Run every threshold without expiry, and every lifetime without a threshold.

    Args:
        spec: The dataset, as `with_ids` returns it.
        days: At least two days. All except the last are trained on, and all except the first are scored.
        lake: Where the data is stored.
        on_result: Called with each setting as soon as it is known.

    Returns:
        The settings.

    Raises:
        ValueError: There are fewer than two days.
    """
    if len(days) < 2:
        raise ValueError(f"a sweep needs at least two days, found {list(days)}")
    chosen = [(threshold, None) for threshold in THRESHOLDS] + [(1, lifetime) for lifetime in LIFETIMES if lifetime]
    found = []
    for threshold, lifetime in chosen:
        found.append(_setting(spec, days, lake, threshold, lifetime))
        if on_result is not None:
            on_result(found[-1])
    return found


def write_sweep(folder: Path | UPath, settings: list[Setting]) -> None:
    """Write `settings.json` and `rows.png`."""
    (folder / "settings.json").write_text(json.dumps([asdict(setting) for setting in settings], indent=1))
    (folder / "rows.png").write_bytes(figure(settings))


def figure(settings: list[Setting]) -> bytes:
    """Plot AUC against rows as a PNG."""
    by_kind = {
        "admitted after": [(s.rows, s.auc, str(s.min_count)) for s in settings if s.ttl_days is None],
        "kept for (days)": [(s.rows, s.auc, f"{s.ttl_days:g}") for s in settings if s.ttl_days is not None],
    }
    return points("AUC by rows kept: Globo.com", "rows of readers and articles", "AUC of the next day", by_kind)


def _setting(spec: DatasetSpec, days: Sequence[str], lake: Lake, threshold: int, lifetime: float | None) -> Setting:
    seconds = lifetime and lifetime * DAY_SECONDS
    table = {"kind": "collisionless", "min_count": threshold, "ttl_seconds": seconds}
    overrides: dict[str, Any] = {"tables": {"features": {name: table for name in IDS}}}
    recipe = recipe_of(spec, "dlrm", overrides)
    replayed = replay(spec, days, lake, recipe, scored_splits=recipe.splits, train_last=False).days
    scores = [day.scores["auc"] or float("nan") for day in replayed if day.scores]
    report = replayed[-2].report
    assert report is not None
    tables = [report.tables[name] for name in IDS]
    return Setting(
        min_count=threshold,
        ttl_days=lifetime,
        rows=sum(stats.rows for stats in tables),
        nbytes=sum(stats.nbytes for stats in tables),
        candidates=sum(stats.candidates for stats in tables),
        auc=float(np.mean(scores)),
        auc_by_day=scores,
        unknown_rate=sum(stats.unknown for stats in tables) / max(1, sum(stats.looked_up for stats in tables)),
        seed=recipe.seed,
    )
