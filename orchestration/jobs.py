"""One job per dataset: everything of a day, from its raw lines to its report."""

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition as DailyJob

from ml.catalog.spec import DatasetSpec


def daily_job(spec: DatasetSpec) -> DailyJob:
    return dg.define_asset_job(
        name=job_name(spec),
        selection=dg.AssetSelection.groups(spec.name),
        description=f"A day of {spec.name}: raw logs, features, MDS data, model, report.",
        tags={"dataset": spec.name},
    )


def job_name(spec: DatasetSpec) -> str:
    return f"{spec.name}_daily"
