"""Keeps the export of the previous day on a day without rows, whose model is the same as on the previous day.

Nothing is quantised and nothing is measured, so it takes milliseconds, and a stretch of any number of such days ends with the
last export that was measured.
"""

from __future__ import annotations

from typing import Any

from upath import UPath

from ml.artifacts.bundle import vocabulary_states, write_inputs
from ml.artifacts.snapshot import copy_weights, digest
from ml.artifacts.stored import require_model
from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.recipes.export import ExportRecipe
from ml.stages import CLEANED_FEATURES, exported_models, served_models


def export_to_keep(lake: Lake, spec: DatasetSpec, day: str, model: str, choice: ExportRecipe) -> str | None:
    """Find the previous day if its export can be kept: if both days have the same model.

    Args:
        lake: Where models are stored.
        spec: The dataset.
        day: `YYYY-MM-DD`.
        model: Name of the model.
        choice: Formats and limit of the export.

    Returns:
        The previous day; None if there is none, if it was exported by another choice or specification, or if it has another
        model.
    """
    before, stage = spec.previous_day(day), exported_models(model)
    if before is None or not lake.is_current(stage, spec.name, before, spec.fingerprint):
        return None
    manifest = lake.manifest(stage, spec.name, before)
    same_model = manifest["snapshot"] == lake.digest(served_models(spec, model), spec.name, day)
    return before if same_model and manifest["export"] == choice.model_dump(mode="json") else None


def keep_export(lake: Lake, spec: DatasetSpec, day: str, model: str, before: str) -> tuple[UPath, dict[str, Any]]:
    """Write a copy of the previous day's export as the partition of the day.

    Args:
        lake: Where exports are stored.
        spec: The dataset.
        day: `YYYY-MM-DD`.
        model: Name of the model.
        before: The previous day, from `export_to_keep`.

    Returns:
        The partition and its manifest, which has the losses of the kept export, and `kept_from`, the day that measured them.

    Raises:
        DamagedSnapshot: A file of the kept export is not the one that was written.
    """
    stage = exported_models(model)
    vocabularies = vocabulary_states(lake, spec, day, served_models(spec, model))
    inputs = [(served_models(spec, model), day), (stage, before), *([(CLEANED_FEATURES, day)] if vocabularies else [])]
    lineage = lake.lineage(spec.name, inputs)
    kept = lake.manifest(stage, spec.name, before)
    with lake.write(stage, spec.name, day) as folder:
        source = require_model(lake, stage, spec.name, before)
        copy_weights(source, folder, write_inputs(folder, spec, vocabularies))
        manifest = kept | {"kept_from": kept.get("kept_from") or before, "digest": digest(folder)} | lineage
        lake.write_manifest(folder, manifest)
    return lake.partition(stage, spec.name, day), manifest
