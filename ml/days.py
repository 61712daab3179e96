"""Arithmetic on days: the partition keys (`YYYY-MM-DD`), and the instant at which each day begins in a time zone.

Times are int64 microseconds since 1970-01-01 UTC. `DatasetSpec` defines the days of a dataset, and `ml.logs.clock` parses the
times of a log.
"""

from __future__ import annotations

from datetime import date, datetime, time, timedelta, tzinfo
from zoneinfo import ZoneInfo

MICROSECONDS_PER_SECOND = 1_000_000
MICROSECONDS_PER_MINUTE = 60 * MICROSECONDS_PER_SECOND
MICROSECONDS_PER_HOUR = 60 * MICROSECONDS_PER_MINUTE

_EPOCH = datetime(1970, 1, 1, tzinfo=ZoneInfo("UTC"))


def shift_day(day: str, by: int) -> str:
    """Returns the day `by` days after `day`; a negative `by` goes back.

    >>> shift_day("2024-03-01", -1)
    '2024-02-29'
    """
    return (date.fromisoformat(day) + timedelta(days=by)).isoformat()


def day_before(day: str) -> str:
    """Returns the calendar day before `day`."""
    return shift_day(day, -1)


def days_from(first: str, count: int) -> list[str]:
    """Returns `count` consecutive days in order, beginning with `first`."""
    return [shift_day(first, i) for i in range(count)]


def trailing_days(day: str, count: int) -> list[str]:
    """Returns the `count` days before `day` in order; `day` itself is not among them.

    >>> trailing_days("2024-01-02", 2)
    ['2023-12-31', '2024-01-01']
    """
    return days_from(shift_day(day, -count), count)


def days_apart(first: str, last: str) -> int:
    """Returns how many days `last` is after `first`; negative if it is before."""
    return (date.fromisoformat(last) - date.fromisoformat(first)).days


def days_between(first: str, last: str) -> list[str]:
    """Returns the days from `first` to `last` in order, both included."""
    return days_from(first, days_apart(first, last) + 1)


def yesterday(zone: tzinfo | None = None) -> date:
    """Returns the last complete day in a time zone; in this machine's zone by default."""
    return datetime.now(zone).date() - timedelta(days=1)


def midnight(day: date, zone: tzinfo) -> int:
    """Returns the first instant of a day in a time zone, in microseconds since 1970-01-01 UTC.

    If clocks skip midnight (America/Sao_Paulo on 2017-10-15), it is 01:00. If midnight occurs twice, it is the earlier one.
    """
    # fold=0 uses the offset before a gap, so 00:00 inside the gap is the instant of the jump.
    return round((datetime.combine(day, time(0), zone) - _EPOCH) / timedelta(microseconds=1))


def day_bounds(day: str, zone: tzinfo) -> tuple[int, int]:
    """Returns the first instants of a day and of the next day, in microseconds since 1970-01-01 UTC.

    >>> first, after = day_bounds("2024-03-10", ZoneInfo("America/New_York"))
    >>> (after - first) / MICROSECONDS_PER_HOUR
    23.0
    """
    first = date.fromisoformat(day)
    return midnight(first, zone), midnight(first + timedelta(days=1), zone)
