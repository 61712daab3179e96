"""Finds the days that have landed with everything that their examples need: one log, or two and the wait between them."""

from __future__ import annotations

from dataclasses import dataclass

from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.joiner.days import days_of_actions
from ml.lake import Lake
from ml.logs.ingest import is_current
from ml.logs.landing import LandedDay, landed_days


@dataclass(frozen=True)
class LandedExamples:
    """The days of a dataset for which something has landed.

    Attributes:
        days: Days that can be made, in order. The stamp of a day changes with the files of both logs.
        newest: The newest day that could be made if the actions had landed as far as the impressions; None without any.
        waiting: The first day that cannot be made, and the first day whose actions it waits for; None if no day waits.
    """

    days: list[LandedDay]
    newest: str | None
    waiting: tuple[str, str] | None = None


def landed_examples(spec: DatasetSpec, folder: str | UPath, lake: Lake) -> LandedExamples:
    """Finds the days of a dataset that can be made from what has landed.

    Args:
        spec: The dataset. With `actions`, a day needs its impressions, and the actions of all days that its wait reaches.
        folder: The landing folder.
        lake: Where the days are, or will be.

    Raises:
        WrongFile: A file lacks a column.
    """
    found = landed_days(spec.log, folder, lake)
    last = max((day.key for day in found), default=None)
    if spec.actions_log is None or last is None:
        return LandedExamples(found, last)
    acted = {day.key: day for day in landed_days(spec.actions_log, folder, lake)}
    needed = {day: days_of_actions(spec, day.key) for day in found}
    complete = []
    for day, others in needed.items():
        if all(other in acted for other in others):
            held = [day, *(acted[other] for other in others)]
            stamp = "+".join(of.stamp for of in held)
            complete.append(LandedDay(day.key, stamp, all(of.current for of in held)))
    newest = max((day.key for day, others in needed.items() if max(others) <= last), default=None)
    missing = ((day.key, other) for day, others in needed.items() for other in others if other not in acted)
    return LandedExamples(complete, newest, next(missing, None))


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
