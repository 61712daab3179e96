"""Finds the days whose files have landed, and whether the lake holds them as the files are now.

Sensors use it to decide which days to run. `ml.logs.ingest` ingests a day.
"""

from __future__ import annotations

from dataclasses import dataclass

from upath import UPath

from ml.catalog.log_spec import LogSpec
from ml.compute.runner import LocalRunner, Runner
from ml.days import days_between, yesterday
from ml.lake import Lake
from ml.logs.index import LogIndex
from ml.logs.sources import NoLogs


@dataclass(frozen=True)
class LandedDay:
    """A day with files in the landing folder.

    Attributes:
        key: The partition key.
        stamp: Changes when a file with lines of the day arrives, changes or is removed.
        current: Whether the partition in the lake was made from exactly these files.
    """

    key: str
    stamp: str
    current: bool


def landed_days(log: LogSpec, folder: str | UPath, lake: Lake, runner: Runner | None = None) -> list[LandedDay]:
    """Lists the days that have landed and are over.

    Args:
        log: The log.
        folder: The landing folder.
        lake: Where the days are, or will be.
        runner: Runs the tasks that index new files; local by default.

    Returns:
        Days in order, empty if no file has landed. Without dated paths, or with `missing_days: skip`, days without lines
        between other days count.

    Raises:
        WrongFile: A file lacks a column.
    """
    try:
        index = LogIndex.build(log, folder, lake, runner or LocalRunner())
    except NoLogs:
        return []
    if log.source.dated:  # rows can spill into days whose own files have not arrived yet
        found = {file.file.day.isoformat() for file in index.files if file.file.day}
    else:
        found = {*index.signatures, *lake.days(log.stage, log.dataset)}  # all lines of a day can have moved to another day
    if found and (not log.source.dated or log.partitions.missing_days == "skip"):
        found = set(days_between(min(found), max(found)))
    days = sorted(found & set(log.days(yesterday(log.zone))))
    return [LandedDay(day, index.signature(day), _signature(lake, log, day) == index.signature(day)) for day in days]


def _signature(lake: Lake, log: LogSpec, day: str) -> str | None:
    return lake.manifest(log.stage, log.dataset, day)["signature"] if lake.has(log.stage, log.dataset, day) else None
