"""The jobs of a dataset: all assets of a day, from its raw lines to its report, and the tuning of its recipes."""

from typing import Any

import dagster as dg

from assets.policy import key
from ml.catalog.spec import DatasetSpec
from ml.stages import stages_of, stages_on_request

AssetJob = Any  # Dagster has no public name for what `define_asset_job` returns


def daily_job(spec: DatasetSpec) -> AssetJob:
    """Build the job that makes a day of one dataset."""
    return _job(spec, job_name(spec), stages_of(spec), f"A day of {spec.name}: raw logs, features, MDS data, models, report.")


def tuning_job(spec: DatasetSpec) -> AssetJob:
    """Build the job that tunes the recipes of one dataset for a day."""
    about = f"Tunes the recipes of {spec.name} on the days before a day, which the tuned recipes then train."
    return _job(spec, f"{spec.name}_tuning", stages_on_request(spec), about)


def _job(spec: DatasetSpec, name: str, stages: list[str], description: str) -> AssetJob:
    selection = dg.AssetSelection.assets(*(key(spec, stage) for stage in stages))
    return dg.define_asset_job(name, selection, description=description, tags={"dataset": spec.name})


def job_name(spec: DatasetSpec) -> str:
    """Return the name of a dataset's daily job."""
    return f"{spec.name}_daily"
