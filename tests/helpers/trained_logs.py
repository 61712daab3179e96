"""Small logs with two days of features, and models that are trained on the first and exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ml.catalog.spec import DatasetSpec
from ml.compute.runner import LocalRunner
from ml.datasets.write import write_day
from ml.export.day import export_day
from ml.features.clean import clean_day
from ml.lake import Lake
from ml.logs.ingest import ingest_day
from ml.logs.synthetic import simulate
from ml.recipes.export import ExportRecipe
from ml.training.day import DayOptions, train_day
from tests.helpers.small_logs import write_log

FAST: dict[str, Any] = {
    "batch_size": 16,
    "table_optimizer": {"lr": 0.3},
    "dense_optimizer": {"lr": 0.02},
    "tables": {"default": {"kind": "hashed", "rows": 512}},
}
"""A recipe that learns from a few hundred rows. Rows of hashed tables are not zero before they are trained."""


def spec_of_log(layout: str, logs: Path, synthetic: DatasetSpec) -> DatasetSpec:
    """Write the log of a layout of `small_logs`, or two days of the built-in one. Returns its entry."""
    if layout != synthetic.name:
        return DatasetSpec.model_validate(write_log(layout, logs, 1) | {"models": {"dlrm": {"overrides": FAST}}})
    entry: dict[str, Any] = synthetic.model_dump(mode="json", exclude_unset=True)
    entry["simulation"] |= {"impressions_per_day": 6000, "users": 300, "items": 100}
    spec = DatasetSpec.model_validate(entry)
    for day in spec.days()[:2]:
        simulate.write_day(spec.log, day, logs)
    return spec


def train_first_day(spec: DatasetSpec, lake: Lake, logs: Path, **export: Any) -> tuple[str, str]:
    """Make the features of two days, and train and export `dlrm` on the first. Returns the days."""
    first, day = spec.days()[:2]
    for one in (first, day):
        ingest_day(spec.log, one, str(logs), lake, LocalRunner())
        clean_day(spec, one, lake, str(logs), LocalRunner())
    write_day(spec, first, lake, LocalRunner())
    train_day(spec, first, lake, options=DayOptions(progress=False))
    export_day(spec, first, lake, choice=ExportRecipe(max_auc_loss=1, **export))
    return first, day
