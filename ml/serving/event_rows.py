"""Makes rows of a log from the events of a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from ml.catalog.log_spec import LogSpec
from ml.schema import ARROW_TYPES, EVENT_TIME
from ml.serving.as_logged import AsLogged
from ml.serving.faults import WrongEvent
from ml.serving.row_times import RowTimes
from ml.serving.typed_values import typed_array


class EventRows:
    """Makes rows of one log.

    Args:
        folder: Name of the log, for messages.
        log: The log.
    """

    def __init__(self, folder: str, log: LogSpec) -> None:
        self._folder = folder
        self._columns = {EVENT_TIME: pa.int64()} | {name: ARROW_TYPES[kind] for name, kind in log.source.columns.items()}
        self._logged = AsLogged([(log.source, log.source.columns)])
        self._times = RowTimes(folder, log)

    def of(self, events: Sequence[Mapping[str, Any]], now: int) -> pa.Table:
        """Return a row for each event, with all columns of the log.

        Args:
            events: Columns of the log. A column that is left out or null is missing. The time of an event is `event_time`, or
                the log's columns of the time, or else `now`; it is written to all of them.
            now: Time of the service, in microseconds since 1970 UTC.

        Raises:
            WrongEvent: A column does not exist, a value has another type, or a time is wrong; see `RowTimes.complete`.
        """
        return pa.table(self._times.complete(self._arrays(events), now))

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
            return typed_array(values, kind)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, TypeError):
            for number, value in enumerate(values):
                try:
                    typed_array([value], kind)
                except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, TypeError) as error:
                    raise WrongEvent(f"{self._folder}[{number}].{name}: expected {kind}, found {value!r:.80}") from error
            raise
