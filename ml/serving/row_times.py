"""The time of an event, which both `event_time` and the columns of the log that have the time contain.

Online training reads `event_time`, and daily training the columns of the log, so both have to be the same time.
"""

# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ml.catalog.log_spec import LogSpec
from ml.catalog.reading import Time
from ml.days import MICROSECONDS_PER_SECOND, day_bounds
from ml.logs.clock import days_of, event_times, partition_bounds, time_values
from ml.logs.time_columns import time_columns
from ml.schema import EVENT_TIME
from ml.serving.faults import WrongEvent

AHEAD_SECONDS = 60
"""The clock of a client may be ahead of the service by this much. Such an event counts as one of the present."""
_EVENT_TIME = Time(column=EVENT_TIME, unit="us")
_UNITS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_ROUNDING = {"s": 999_999, "ms": 999}
"""Microseconds by which numbers may differ from `event_time`, by unit: less than one unit. It is 1 for all other columns."""


class RowTimes:
    """Checks and completes the times of events of one log.

    Args:
        folder: Name of the log, for messages.
        log: The log.
    """

    def __init__(self, folder: str, log: LogSpec) -> None:
        self._folder, self._log, self._clock = folder, log, log.time
        self._rounding = 1 if log.time.is_text else _ROUNDING.get(log.time.unit, 1)
        self._begin = day_bounds(log.partitions.start.isoformat(), log.zone)[0]

    def complete(self, columns: Mapping[str, pa.Array], now: int) -> dict[str, pa.Array]:
        """Return the columns with the time of every event, in `event_time` and in the columns of the log.

        If an event has both, they may differ by rounding, and both are kept. If rounding has moved the columns of the log to
        another day, they are written anew from `event_time`.

        Args:
            columns: The log's columns and `event_time`, [N]. What is null is filled in: by the other time, or else by `now`.
            now: Time of the service, in microseconds since 1970 UTC. Times up to `AHEAD_SECONDS` ahead of it become `now`.

        Raises:
            WrongEvent: A time cannot be read, is further ahead or before the log, or an event has two different times.
        """
        times, is_given = self._read(_EVENT_TIME, columns, now)
        own, has_own = self._read(self._clock, columns, now) if self._clock.columns else (times, np.zeros(len(times), bool))
        if (is_given & has_own).any():
            self._check_equal(columns, times, own, is_given & has_own)
        times = np.minimum(np.where(is_given, times, np.where(has_own, own, now)), now)
        completed = {**columns, EVENT_TIME: pa.array(times)}
        filled = ~has_own | (own > now)
        if (own != times).any():
            bounds = partition_bounds(self._log)
            filled |= days_of(own, bounds) != days_of(times, bounds)
        if filled.any():
            for name, values in time_columns(times, self._clock).items():
                values = values.cast(columns[name].type, safe=False)  # floats cannot hold all nanoseconds
                completed[name] = pc.if_else(pa.array(filled), values, columns[name])
        return completed

    def _read(self, clock: Time, columns: Mapping[str, pa.Array], now: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the times [N] in one clock's columns, and which events have one. Raises `WrongEvent`."""
        read = pa.table({name: columns[name] for name in clock.columns})
        is_given = np.any([column.is_valid().to_numpy() for column in read.columns], axis=0)
        if not is_given.any():
            return np.zeros(len(is_given), np.int64), is_given
        times, is_time = event_times(time_values(read, clock), clock)
        latest = now + AHEAD_SECONDS * MICROSECONDS_PER_SECOND
        wrong = is_given & (~is_time | (times < self._begin) | (times > latest))
        if wrong.any():
            limits = [values.to_pylist() for values in time_columns(np.array([self._begin, latest]), clock).values()]
            first, last = (_shown(values) for values in zip(*limits, strict=True))
            expected = f"{_kind(clock)} from {first}, where the log begins, to {last}, {AHEAD_SECONDS} s ahead of the service"
            raise self._wrong(read, wrong, expected, "an event without it has the time of its arrival")
        return times, is_given

    def _check_equal(
        self, columns: Mapping[str, pa.Array], times: NDArray[np.int64], own: NDArray[np.int64], both: NDArray[np.bool_]
    ) -> None:
        """Raise `WrongEvent` if the columns of the log have another time than `event_time`, apart from rounding."""
        written = pa.table(time_columns(times, self._clock))
        rounded_down, _ = event_times(time_values(written, self._clock), self._clock)
        wrong = both & (np.abs(own - times) > self._rounding) & (own != rounded_down)
        if wrong.any():
            read = pa.table({name: columns[name] for name in self._clock.columns})
            expected = f"the same time as {EVENT_TIME}, {_row(written, int(wrong.argmax()))}"
            raise self._wrong(read, wrong, expected, "leave one of them out")

    def _wrong(self, read: pa.Table, wrong: NDArray[np.bool_], expected: str, way_out: str) -> WrongEvent:
        """Return the error of the first wrong event."""
        number = int(wrong.argmax())
        column, found = read.column_names[0], _row(read, number)
        return WrongEvent(f"{self._folder}[{number}].{column}: expected {expected}, found {found}; {way_out}")


def _kind(clock: Time) -> str:
    if clock.format is not None:
        return f"a time in the format {clock.format!r}"
    return "a time in ISO 8601" if clock.is_text else f"{_UNITS[clock.unit]} since 1970 UTC"


def _row(table: pa.Table, number: int) -> str:
    return _shown(column[number].as_py() for column in table.columns)


def _shown(values: Iterable[Any]) -> str:
    return " ".join(f"{value!r:.80}" for value in values)
