"""Which days are done, as the lake says: by partition key and manifest, never by newest file. Nothing runs from here."""

from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.stages import stages_of


def stages_done(lake: Lake, spec: DatasetSpec, day: str) -> bool:
    """Whether every stage of the day lies in the lake, written under the catalog entry of now, from what lies there now."""
    return all(
        lake.is_current(stage, spec.name, day, spec.fingerprint_of(stage)) and not lake.is_outdated(stage, spec.name, day)
        for stage in stages_of(spec)
    )


def is_done(lake: Lake, spec: DatasetSpec, day: str, logs: str) -> bool:
    """Whether every stage of the day is done, and from the log files of now."""
    from ml.logs.ingest import is_current

    return stages_done(lake, spec, day) and is_current(spec.log, day, logs, lake)
