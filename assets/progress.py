"""Finds out which days are done, from the lake's partitions and their manifests."""

from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.stages import stages_of


def stages_done(lake: Lake, spec: DatasetSpec, day: str) -> bool:
    """Return whether every stage of the day is in the lake, written from the current catalog entry and the current inputs."""
    return all(
        lake.is_current(stage, spec.name, day, spec.fingerprint_of(stage)) and not lake.is_outdated(stage, spec.name, day)
        for stage in stages_of(spec)
    )


def is_done(lake: Lake, spec: DatasetSpec, day: str, logs: str) -> bool:
    """Return whether every stage of the day is done, and was written from the current log files."""
    from ml.logs.ingest import is_current

    return stages_done(lake, spec, day) and is_current(spec.log, day, logs, lake)
