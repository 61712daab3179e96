"""Finds the days that have landed with everything that their examples need: one log, or two and the wait between them."""

from __future__ import annotations

from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.joiner.days import days_of_actions
from ml.lake import Lake
from ml.logs.ingest import is_current
from ml.logs.landing import LandedDay, landed_days


def landed_examples(spec: DatasetSpec, folder: str | UPath, lake: Lake) -> list[LandedDay]:
    """Lists the days of a dataset that can be made from what has landed.

    Args:
        spec: The dataset. With `actions`, a day needs its impressions, and the actions of all days that its wait reaches.
        folder: The landing folder.
        lake: Where the days are, or will be.

    Returns:
        Days in order. The stamp of a day changes with the files of both logs.

    Raises:
        WrongFile: A file lacks a column.
    """
    found = landed_days(spec.log, folder, lake)
    if spec.actions_log is None or not found:
        return found
    acted = {day.key: day for day in landed_days(spec.actions_log, folder, lake)}
    complete = []
    for day in found:
        needed = days_of_actions(spec, day.key)
        if all(other in acted for other in needed):
            held = [day, *(acted[other] for other in needed)]
            stamp = "+".join(of.stamp for of in held)
            complete.append(LandedDay(day.key, stamp, all(of.current for of in held)))
    return complete


def is_landed_as_read(spec: DatasetSpec, day: str, folder: str | UPath, lake: Lake) -> bool:
    """Returns whether the raw days that the examples of a day are made from were read from the files as they are now.

    Args:
        spec: The dataset.
        day: The partition key.
        folder: The landing folder.
        lake: Where the partitions are.
    """
    if not is_current(spec.log, day, folder, lake):
        return False
    log = spec.actions_log
    return log is None or all(is_current(log, other, folder, lake) for other in days_of_actions(spec, day))
