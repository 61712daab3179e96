"""What has landed: the days whose files lie in the landing folder, and whether the lake has read them as they are now.

For a sensor, which decides what to run; ingesting a day is `ml.logs.ingest`.
"""

from __future__ import annotations

from dataclasses import dataclass

from upath import UPath

from ml.catalog.log_spec import LogSpec
from ml.compute.runner import LocalRunner, Runner
from ml.days import yesterday
from ml.lake import Lake
from ml.logs.clock import day_index, day_key
from ml.logs.index import LogIndex
from ml.logs.sources import NoLogs


@dataclass(frozen=True)
class LandedDay:
    """key: the partition. stamp: changes when a file with lines of the day arrives, changes or goes. current: whether
    `raw_logs` in the lake was made from just these files."""

    key: str
    stamp: str
    current: bool


def landed_days(log: LogSpec, logs: str | UPath, lake: Lake, runner: Runner | None = None) -> list[LandedDay]:
    """Days that have landed and are over, in order; none where no file has. Raises `WrongFile`.

    Without dated paths, a day that has no lines but lies between days that have is one of them.
    """
    try:
        index = LogIndex.build(log, logs, lake, runner or LocalRunner())
    except NoLogs:
        return []
    if log.source.dated:  # rows may spill into days whose own files are still to come
        found = {file.file.day.isoformat() for file in index.files if file.file.day}
    else:
        found = {*index.signatures, *lake.days(log.stage, log.dataset)}  # a day may have lost its lines to another
        bounds = [day_index(log, end(found)) for end in (min, max) if found] or [0, -1]
        found = {day_key(log, i) for i in range(bounds[0], bounds[1] + 1)}
    days = sorted(found & set(log.days(yesterday(log.zone))))
    return [LandedDay(day, index.signature(day), _signature(lake, log, day) == index.signature(day)) for day in days]


def _signature(lake: Lake, log: LogSpec, day: str) -> str | None:
    return lake.manifest(log.stage, log.dataset, day)["signature"] if lake.has(log.stage, log.dataset, day) else None
