"""The day by slice in a report: how the serving model, which learns within the day, compares with daily models.

The numbers were measured by online training (`ml.online`) and are read from its partition. Nothing is scored here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow.parquet as pq

from ml.catalog.spec import DatasetSpec
from ml.evaluation.ranking.metrics import HEADLINE
from ml.lake import Lake
from ml.stages import online_updates

SLICES = "slices.parquet"
MODELS = ("online", "stale", "retrained")


def online_places(lake: Lake, spec: DatasetSpec, day: str) -> list[tuple[str, str]]:
    """List stage and day of the day's partitions of online training that are in the lake."""
    stages = [online_updates(model) for model in spec.models]
    return [(stage, day) for stage in stages if lake.has(stage, spec.name, day)]


def online_training(lake: Lake, spec: DatasetSpec, day: str) -> dict[str, dict[str, Any]]:
    """Describe the day's online training, by model; empty without any."""
    found = {model: day_by_slice(lake, spec, model, day) for model in spec.models}
    return {model: of for model, of in found.items() if of is not None}


def day_by_slice(lake: Lake, spec: DatasetSpec, model: str, day: str) -> dict[str, Any] | None:
    """Describe a day of one model.

    Args:
        lake: Where online training is stored.
        spec: The dataset.
        model: Name of the model.
        day: `YYYY-MM-DD`.

    Returns:
        None if the model was not trained online on the day, otherwise:

        - `run_id`, `first_day`: the run, and its first day.
        - `scores`: metrics of the whole day by model (`online`, `stale`, `retrained`), among them `auc`, `log_loss`,
          `calibration` and `age_seconds`.
        - `gains`: differences between `online` and the other models on the same rows.
        - `ranking`: how the models and the standing sources rank all live items for the clicks of the day, in the form of
          `ml.evaluation.ranking.report`; None if they were not ranked. The models are ranked on all clicks.
        - `unranked`: why a retrieval model was not ranked within the day; None for other models, and for a ranked day.
        - `scored_after_seconds`: time from an impression until its example is predicted. If it is not 0, the scores of `online`
          are those of a model that knows more than the one that was served at the impression, and ages are too low by it.
        - `compared_with`: the day up to which each of the other models was trained.
        - `synced`: rows and bytes of the day's synchronisations; `rows_by_table`.
        - `slices`: the rows of `slices.parquet`.
    """
    stage = online_updates(model)
    if not lake.has(stage, spec.name, day):
        return None
    manifest = lake.manifest(stage, spec.name, day)
    path = lake.partition(stage, spec.name, day) / SLICES
    with path.fs.open(path.path, "rb") as file:
        slices = pq.read_table(file).to_pylist()
    return {
        "run_id": manifest["run"]["run_id"],
        "first_day": manifest["run"]["first_day"],
        "scores": manifest["scores"],
        "gains": manifest["gains"],
        "ranking": manifest.get("ranking"),
        "unranked": manifest.get("unranked"),
        "scored_after_seconds": manifest.get("scored_after_seconds", 0.0),
        "compared_with": manifest["trained_from"]["compared_with"],
        "synced": manifest["synced"],
        "slices": slices,
    }


def headline_of(found: Mapping[str, Any]) -> str:
    """Return the metric of `slices` that says how good a day is, from what `day_by_slice` returned: `auc` or `recall@20`."""
    return HEADLINE if found["ranking"] else "auc"
