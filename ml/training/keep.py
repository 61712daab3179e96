"""A day without rows to train on keeps the model of the day before: its files are copied, and nothing is loaded or logged."""

from __future__ import annotations

import json
import logging
from typing import Any

from ml.artifacts.predictor import metadata_of
from ml.artifacts.snapshot import copy_snapshot, read_state
from ml.artifacts.stored import require_model
from ml.catalog.spec import DatasetSpec
from ml.embeddings.interface import TableStats
from ml.lake import Lake
from ml.recipes.recipe import Recipe
from ml.schema import FeatureSchema
from ml.stages import tuned_models
from ml.training.report import TrainedDay, TrainReport

_log = logging.getLogger("evergreen")


def can_keep(lake: Lake, spec: DatasetSpec, model: str, parent: str, recipe: Recipe) -> bool:
    """Whether a day can keep the snapshot of the day before: recipe, schema and library versions must be the same."""
    state = read_state(require_model(lake, tuned_models(model), spec.name, parent))
    wanted = json.loads(json.dumps(metadata_of(recipe, FeatureSchema.of(spec))))
    return all(state["metadata"].get(key) == value for key, value in wanted.items())


def keep_model(lake: Lake, spec: DatasetSpec, model: str, day: str, parent: str, recipe: Recipe) -> TrainedDay:
    """Describe a day that keeps the model of the day before, with a warning. `copy_model` writes it.

    Args:
        lake: Where models are stored.
        spec: The dataset.
        model: Name of the model.
        day: `YYYY-MM-DD`, without rows to train on.
        parent: The day before.
        recipe: The recipe of the model.
    """
    stage = tuned_models(model)
    manifest = lake.manifest(stage, spec.name, parent)
    kept_from = manifest.get("kept_from") or parent
    _log.warning("%s/%s of %s: no rows to train on; the model of %s is kept", spec.name, stage, day, kept_from)
    rows = read_state(lake.partition(stage, spec.name, parent))["metadata"]["rows"]
    tables = {name: _unchanged(stats) for name, stats in manifest["tables"].items()}
    report = TrainReport(0, 0, None, 0, 0.0, 0.0, 0.0, 0.0, tables=tables)
    folder = lake.partition(stage, spec.name, day)
    base = (stage, parent)
    return TrainedDay(spec.name, model, day, folder, base, recipe, report, 0, rows, manifest["digest"], kept_from)


def copy_model(lake: Lake, kept: TrainedDay, manifest: dict[str, Any]) -> None:
    """Write the partition of a kept day: the files of the day before, and the manifest.

    Raises:
        DamagedSnapshot: A file of the day before is missing, or has changed since it was written.
    """
    if kept.base is None:
        raise ValueError(f"{kept.dataset} {kept.model} of {kept.day}: there is no day before whose model could be kept")
    stage, parent = kept.base
    with lake.write(stage, kept.dataset, kept.day) as folder:
        copy_snapshot(require_model(lake, stage, kept.dataset, parent), folder)
        lake.write_manifest(folder, manifest)


def _unchanged(stats: dict[str, int]) -> TableStats:
    """Return the statistics of an unchanged table over a pass without rows."""
    return TableStats(stats["rows"], stats["nbytes"], stats["candidates"])
