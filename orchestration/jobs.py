"""One job per dataset: all assets of a day, from its raw lines to its report."""

from typing import Any

import dagster as dg

from ml.catalog.spec import DatasetSpec

DailyJob = Any  # Dagster has no public name for what `define_asset_job` returns


def daily_job(spec: DatasetSpec) -> DailyJob:
    """Build the job that materialises all assets of a day of one dataset."""
    return dg.define_asset_job(
        name=job_name(spec),
        selection=dg.AssetSelection.key_prefixes(spec.name),
        description=f"A day of {spec.name}: raw logs, features, MDS data, model, report.",
        tags={"dataset": spec.name},
    )


def job_name(spec: DatasetSpec) -> str:
    """Return the name of a dataset's job."""
    return f"{spec.name}_daily"
