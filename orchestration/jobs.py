"""The jobs of a dataset: all assets of a day, the tuning of its recipes, and online training within a day."""

from typing import Any

import dagster as dg

from assets.policy import key
from ml.catalog.spec import DatasetSpec
from ml.stages import EVALUATION_REPORTS, online_updates, stages_of, tuning_results

AssetJob = Any  # Dagster has no public name for what `define_asset_job` returns


def daily_job(spec: DatasetSpec) -> AssetJob:
    """Build the job that makes a day of one dataset."""
    return _job(spec, job_name(spec), stages_of(spec), f"A day of {spec.name}: raw logs, features, MDS data, models, report.")


def tuning_job(spec: DatasetSpec) -> AssetJob:
    """Build the job that tunes the recipes of one dataset for a day."""
    about = f"Tunes the recipes of {spec.name} for a day, on the days before it."
    return _job(spec, f"{spec.name}_tuning", [tuning_results(model) for model in spec.models], about)


def online_job(spec: DatasetSpec) -> AssetJob:
    """Build the job that trains the models of one dataset online on a day, and makes its report again."""
    about = f"Trains the models of {spec.name} within a day, slice by slice, and shows the day by slice in its report."
    return _job(spec, f"{spec.name}_online", [*(online_updates(model) for model in spec.models), EVALUATION_REPORTS], about)


def _job(spec: DatasetSpec, name: str, stages: list[str], description: str) -> AssetJob:
    selection = dg.AssetSelection.assets(*(key(spec, stage) for stage in stages))
    return dg.define_asset_job(name, selection, description=description, tags={"dataset": spec.name})


def job_name(spec: DatasetSpec) -> str:
    """Return the name of a dataset's daily job."""
    return f"{spec.name}_daily"
