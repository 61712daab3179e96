"""Which days are done, as the lake says: by partition key and manifest, never by newest file. Nothing runs from here."""

from assets import cleaned_features, evaluation_reports, mds_datasets, raw_logs, tuned_models
from ml.catalog.spec import DatasetSpec
from ml.lake import Lake

# Asset -> stage of the lake that holds its partitions.
LAKE_STAGES = {
    raw_logs.STAGE: "raw_logs",
    cleaned_features.STAGE: "cleaned_features",
    mds_datasets.STAGE: "mds_datasets",
    tuned_models.STAGE: "tuned_models",
    evaluation_reports.STAGE: "reports",
}


def stages_done(lake: Lake, spec: DatasetSpec, day: str) -> bool:
    """Whether every stage of the day lies in the lake, written under the catalog entry of now, from what lies there now."""
    return all(
        lake.has(stage, spec.name, day)
        and lake.manifest(stage, spec.name, day).get("fingerprint") == spec.fingerprint
        and not lake.is_outdated(stage, spec.name, day)
        for stage in LAKE_STAGES.values()
    )


def is_done(lake: Lake, spec: DatasetSpec, day: str, logs: str) -> bool:
    """Whether every stage of the day is done, and from the log files of now."""
    from ml.logs.ingest import is_current

    return stages_done(lake, spec, day) and is_current(spec, day, logs, lake)
