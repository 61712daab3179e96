"""What admission and expiry save and cost: rows, memory and AUC on days of Globo.com's log, with its readers and articles.

A day's model is trained on from the day before's, as the daily assets do, and scored on the next day, which it has not seen.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from upath import UPath

from ml.catalog.spec import DatasetSpec, SparseColumn
from ml.compute.runner import Runner
from ml.datasets.reader import BlockReader
from ml.datasets.write import write_day
from ml.evaluation.plots import points
from ml.features.clean import clean_day
from ml.lake import Lake
from ml.logs.ingest import ingest_day
from ml.metrics import auc
from ml.models.predict import predict
from ml.recipes.recipe import recipe_of
from ml.schema import FeatureSchema
from ml.training.passes import train_pass
from ml.training.state import new_state

THRESHOLDS = (1, 10, 20, 50, 100)  # a click is five examples: it and its negatives
LIFETIMES: tuple[float | None, ...] = (None, 2.0, 1.0, 0.5)  # days
IDS = {"reader": "user_id", "article": "click_article_id"}
DAY_SECONDS = 86_400.0


@dataclass(frozen=True)
class Setting:
    """ttl_days of rows, or None. rows, nbytes, candidates: of readers' and articles' tables after the last day of training.
    auc: mean over the days scored, each by the model of the day before. unknown_rate: on the last day, of readers and articles.
    """

    min_count: int
    ttl_days: float | None
    rows: int
    nbytes: int
    candidates: int
    auc: float
    auc_by_day: list[float]
    unknown_rate: float


def with_ids(spec: DatasetSpec) -> DatasetSpec:
    """The dataset with its readers and articles among the sparse features."""
    more = [SparseColumn(name=name, column=column) for name, column in IDS.items()]
    return spec.model_copy(update={"name": f"{spec.name}-ids", "sparse": (*spec.sparse, *more)})


def prepare(spec: DatasetSpec, days: Sequence[str], lake: Lake, landing: str, runner: Runner) -> None:
    """Training data of the days, where it is not there yet. spec: of `with_ids`."""
    for day in days:
        if not lake.has("mds_datasets", spec.name, day):
            ingest_day(spec.log, day, landing, lake, runner)
            clean_day(spec, day, lake, landing, runner, None)
            write_day(spec, day, lake, runner)


def sweep(
    spec: DatasetSpec, days: Sequence[str], lake: Lake, on_result: Callable[[Setting], None] | None = None
) -> list[Setting]:
    """Every threshold without expiry, and every lifetime without a threshold. Trains on all days but the last, scores all but
    the first."""
    chosen = [(threshold, None) for threshold in THRESHOLDS] + [(1, lifetime) for lifetime in LIFETIMES if lifetime]
    found = []
    for threshold, lifetime in chosen:
        found.append(_setting(spec, days, lake, threshold, lifetime))
        if on_result is not None:
            on_result(found[-1])
    return found


def write_sweep(folder: Path | UPath, settings: list[Setting]) -> None:
    """`settings.json` and `rows.png`."""
    (folder / "settings.json").write_text(json.dumps([asdict(setting) for setting in settings], indent=1))
    (folder / "rows.png").write_bytes(figure(settings))


def figure(settings: list[Setting]) -> bytes:
    """PNG: AUC against rows."""
    by_kind = {
        "admitted after": [(s.rows, s.auc, str(s.min_count)) for s in settings if s.ttl_days is None],
        "kept for (days)": [(s.rows, s.auc, f"{s.ttl_days:g}") for s in settings if s.ttl_days is not None],
    }
    return points("Fewer rows, what AUC: Globo.com", "rows of readers and articles", "AUC of the next day", by_kind)


def _setting(spec: DatasetSpec, days: Sequence[str], lake: Lake, threshold: int, lifetime: float | None) -> Setting:
    schema = FeatureSchema.of(spec)
    seconds = lifetime and lifetime * DAY_SECONDS
    table = {"kind": "collisionless", "min_count": threshold, "ttl_seconds": seconds}
    overrides: dict[str, Any] = {"tables": {"features": {name: table for name in IDS}}}
    recipe = recipe_of(spec, "dlrm", overrides)
    state, scores, report = new_state(recipe, schema), [], None
    for day, following in pairwise(days):
        state.begin_pass()
        reader = BlockReader(lake, spec, [day], splits=recipe.splits, batch_size=recipe.batch_size, order="time")
        report = train_pass(state, reader, total_steps=len(reader))
        batches = list(BlockReader(lake, spec, [following], splits=recipe.splits, batch_size=8192, order="time"))
        labels = np.concatenate([batch.labels.numpy() for batch in batches])
        scores.append(auc(labels, predict(state.model, batches)) or float("nan"))
    if report is None:
        raise ValueError(f"a sweep needs at least two days, found {list(days)}")
    tables = [report.tables[name] for name in IDS]
    return Setting(
        min_count=threshold,
        ttl_days=lifetime,
        rows=sum(figures.rows for figures in tables),
        nbytes=sum(figures.nbytes for figures in tables),
        candidates=sum(figures.candidates for figures in tables),
        auc=float(np.mean(scores)),
        auc_by_day=scores,
        unknown_rate=sum(figures.unknown for figures in tables) / max(1, sum(figures.looked_up for figures in tables)),
    )
