"""Makes rows of a log from the events of a request."""

# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ml.catalog.log_spec import LogSpec
from ml.days import MICROSECONDS_PER_SECOND, day_bounds
from ml.logs.clock import from_event_times
from ml.schema import ARROW_TYPES, EVENT_TIME
from ml.serving.as_logged import AsLogged

AHEAD_SECONDS = 60
"""The clock of a client may be ahead of the service by this much. Such an event counts as one of the present."""


class WrongEvent(ValueError):
    """An event cannot be a row of the log; the message names the event and the column."""


class EventRows:
    """Makes rows of one log.

    Args:
        folder: Name of the log, for messages.
        log: The log.
    """

    def __init__(self, folder: str, log: LogSpec) -> None:
        self._folder, self._log = folder, log
        self._columns = {EVENT_TIME: pa.int64()} | {name: ARROW_TYPES[kind] for name, kind in log.source.columns.items()}
        self._logged = AsLogged([(log.source, log.source.columns)])
        self._begin = day_bounds(log.partitions.start.isoformat(), log.zone)[0]

    def of(self, events: Sequence[Mapping[str, Any]], now: int) -> pa.Table:
        """Return a row for each event, with all columns of the log.

        Args:
            events: Columns of the log. A column that is left out or null is missing; a missing `event_time` is `now`, and a
                missing column of the time has the `event_time`.
            now: Time of the service, in microseconds since 1970 UTC.

        Raises:
            WrongEvent: A column does not exist, a value has another type, or a time is ahead of the service or before the log.
        """
        columns = self._arrays([event if event.get(EVENT_TIME) is not None else {**event, EVENT_TIME: now} for event in events])
        times, latest = columns[EVENT_TIME].to_numpy(), now + AHEAD_SECONDS * MICROSECONDS_PER_SECOND
        wrong = (times > latest) | ((times < self._begin) & (times != now))
        if wrong.any():
            number = int(wrong.argmax())
            raise WrongEvent(
                f"{self._folder}[{number}].{EVENT_TIME}: expected microseconds since 1970 UTC from {self._begin}, where the "
                f"log begins, to {latest}, {AHEAD_SECONDS} s ahead of the service, found {times[number]}; leave it out for now"
            )
        columns[EVENT_TIME] = pa.array(np.minimum(times, now))
        clock = self._log.time.column
        if clock is not None and columns[clock].null_count and not self._log.time.is_text:
            own = pa.array(from_event_times(columns[EVENT_TIME].to_numpy(), self._log.time))
            columns[clock] = pc.coalesce(columns[clock], own.cast(self._columns[clock]))
        return pa.table(columns)

    def read(self, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
        """Return rows of `of` that were stored as plain values. Raises `WrongEvent` if they do not fit the log any more."""
        return pa.table(self._arrays(rows))

    def _arrays(self, events: Sequence[Mapping[str, Any]]) -> dict[str, pa.Array]:
        for number, event in enumerate(events):
            if unknown := [name for name in event if name not in self._columns]:
                raise WrongEvent(
                    f"{self._folder}[{number}].{unknown[0]}: no such column; the columns are {list(self._columns)}"
                )
        value = self._logged.value
        return {
            name: self._array(name, [value(name, event.get(name)) for event in events], kind)
            for name, kind in self._columns.items()
        }

    def _array(self, name: str, values: list[Any], kind: pa.DataType) -> pa.Array:
        try:
            return pa.array(values, kind)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, TypeError):
            for number, value in enumerate(values):
                try:
                    pa.array([value], kind)
                except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, TypeError) as error:
                    raise WrongEvent(f"{self._folder}[{number}].{name}: expected {kind}, found {value!r:.80}") from error
            raise
