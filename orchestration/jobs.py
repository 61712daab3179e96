"""The jobs of a dataset: all assets of a day, from its raw lines to its report, and the tuning of its recipes."""

from typing import Any

import dagster as dg

from assets.policy import key
from ml.catalog.spec import DatasetSpec
from ml.stages import stages_of, stages_on_request

AssetJob = Any  # Dagster has no public name for what `define_asset_job` returns


def daily_job(spec: DatasetSpec) -> AssetJob:
    """Build the job that makes a day of one dataset."""
    return dg.define_asset_job(
        name=job_name(spec),
        selection=dg.AssetSelection.assets(*(key(spec, stage) for stage in stages_of(spec))),
        description=f"A day of {spec.name}: raw logs, features, MDS data, models, report.",
        tags={"dataset": spec.name},
    )


def tuning_job(spec: DatasetSpec) -> AssetJob:
    """Build the job that tunes the recipes of one dataset for a day."""
    return dg.define_asset_job(
        name=tuning_job_name(spec),
        selection=dg.AssetSelection.assets(*(key(spec, stage) for stage in stages_on_request(spec))),
        description=f"Tunes the recipes of {spec.name} on the days before a day, which the tuned recipes then train.",
        tags={"dataset": spec.name},
    )


def tuning_job_name(spec: DatasetSpec) -> str:
    """Return the name of a dataset's tuning job."""
    return f"{spec.name}_tuning"


def job_name(spec: DatasetSpec) -> str:
    """Return the name of a dataset's daily job."""
    return f"{spec.name}_daily"
