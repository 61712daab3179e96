"""Which days of the two logs the examples of a day are joined from."""

from __future__ import annotations

from datetime import datetime, timedelta

from ml.catalog.spec import DatasetSpec
from ml.days import day_bounds, days_from, trailing_days
from ml.joiner.join import look_back

_SHORT_DAY = 23 * 3_600_000_000  # a day in which clocks go forward, in microseconds


def days_of_actions(spec: DatasetSpec, day: str) -> list[str]:
    """Returns the days whose actions can count for impressions of a day: the day, and later days that its wait reaches.

    Days after the last day of the log are left out.

    Args:
        spec: A dataset with `actions`.
        day: The partition key.
    """
    assert spec.actions is not None
    end = day_bounds(day, spec.zone)[1] + spec.actions.wait
    most = -(-spec.actions.wait // _SHORT_DAY) + 1
    last = spec.partitions.end.isoformat() if spec.partitions.end else "9999-12-31"
    return [d for d in days_from(day, most + 1) if d == day or (day_bounds(d, spec.zone)[0] < end and d <= last)]


def earlier_impressions(spec: DatasetSpec, day: str) -> list[str]:
    """Returns the days before a day whose impressions can repeat in it, or can have actions in it, in order."""
    assert spec.actions is not None
    start = day_bounds(day, spec.zone)[0] - look_back(spec.actions)
    most = -(-look_back(spec.actions) // _SHORT_DAY) + 1
    return [d for d in trailing_days(day, most) if d >= spec.first_day and day_bounds(d, spec.zone)[1] > start]


def days_after(spec: DatasetSpec) -> int:
    """Returns how many days of actions after a day its examples can need."""
    return _most_days(spec, spec.actions.wait) if spec.actions else 0


def days_before(spec: DatasetSpec) -> int:
    """Returns how many days of impressions before a day its examples can need."""
    return _most_days(spec, look_back(spec.actions)) if spec.actions else 0


def _most_days(spec: DatasetSpec, span: int) -> int:
    """Returns how many days a span of microseconds can reach into. One of them is short where clocks go forward."""
    months = (datetime(spec.partitions.start.year, month, 1, tzinfo=spec.zone) for month in range(1, 13))
    offsets = [moment.utcoffset() or timedelta() for moment in months]
    return -(-(timedelta(microseconds=span) + max(offsets) - min(offsets)) // timedelta(days=1))
