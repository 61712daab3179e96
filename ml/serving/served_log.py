"""The log of served features: the items of each response, and the values of feature tables that they were ranked by.

    served/rows-<time>-<process>.parquet      a row for each answered item
    served/events-<time>-<process>.parquet    received events, with the refresh of the feature tables that took them

The files are in the dataset's stream folder, beside the logs of impressions and actions, which do not have these columns.
`request_id` of a row is the one that the client was answered. A client that stores it with its impressions can join both.
`ml.serving.served_values` computes the values again at the same instants.

Rows are written every second, so a process that is killed loses those of its last second. If the disk is full, rows of this
log are lost, and requests are still answered.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ml.catalog.spec import DatasetSpec
from ml.features.point_in_time.feature_tables import table_columns
from ml.parquet import replace_table
from ml.schema import ARROW_TYPES, EVENT_TIME

FOLDER = "served"
REQUEST_ID, POSITION, PROCESS = "request_id", "position", "process"
REFRESHED_AT, LOADED_UNTIL = "refreshed_at", "loaded_until"
MOST_PENDING = 100_000
"""Answered items and parts of events that wait to be written; more are dropped."""
_log = logging.getLogger("evergreen")


@dataclass
class ServedRequest:
    """What feature tables answered for one request.

    Attributes:
        at: Instant of the request, in microseconds since 1970 UTC.
        refreshed_at: Time of the refresh whose events the values count.
        tables: The tables as of that refresh, which all values of the request come from.
        given: Columns of the log that describe the request.
        of_request: Values that depend on the request alone, arrays [1] by column.
        items: Candidates with the values that depend on them; None if no candidate was looked up.
    """

    at: int = 0
    refreshed_at: int = 0
    tables: Any = None
    given: Mapping[str, Any] = field(default_factory=dict)
    of_request: dict[str, pa.Array] = field(default_factory=dict)
    items: pa.Table | None = None


_current: ContextVar[ServedRequest | None] = ContextVar("served request", default=None)


def current_request() -> ServedRequest | None:
    """Return the request whose values are being noted in this thread; None outside of `noting`."""
    return _current.get()


@contextmanager
def noting() -> Iterator[ServedRequest]:
    """Note what feature tables answer in this thread until the block ends."""
    served = ServedRequest()
    token = _current.set(served)
    try:
        yield served
    finally:
        _current.reset(token)


class ServedLog:
    """Appends what was served. Threads may use it at any time.

    Args:
        spec: A dataset with feature tables and an item.
        stream: The dataset's stream folder.
        loaded_until: End of the last day whose events the service has loaded from the lake.
    """

    def __init__(self, spec: DatasetSpec, stream: Path, loaded_until: int) -> None:
        self.spec, self.folder = spec, stream / FOLDER
        self._loaded_until, self._process = loaded_until, f"{os.getpid()}-{time.time_ns()}"
        self._lock = threading.Lock()
        self._answers: list[tuple[str, ServedRequest, list[Any]]] = []
        self._events: list[tuple[int, pa.Table]] = []
        self.dropped = 0

    def answered(self, request_id: str, served: ServedRequest, items: Sequence[Any]) -> None:
        """Add an answer: the items as logged, best first."""
        if served.items is None or not items:
            return
        with self._lock:
            if len(self._answers) < MOST_PENDING:
                self._answers.append((request_id, served, list(items)))
            else:
                self.dropped += 1

    def refreshed(self, at: int, events: Sequence[pa.Table]) -> None:
        """Add the events that a refresh has taken."""
        with self._lock:
            self._events += [(at, rows) for rows in events]

    def flush(self) -> None:
        """Write what was added as files that appear complete."""
        with self._lock:
            answers, self._answers = self._answers, []
            events, self._events = self._events, []
        try:
            if events:
                self._write("events", pa.concat_tables([self._marked(rows, at) for at, rows in events]))
            if answers:
                self._write("rows", pa.concat_tables([self._rows(*answer) for answer in answers]))
        except OSError as error:
            self.dropped += len(answers)
            _log.warning("%s: %d answers are not in the log of served features: %s", self.folder, len(answers), error)

    def _marked(self, rows: pa.Table, at: int) -> pa.Table:
        marks = {REFRESHED_AT: pa.array(np.full(len(rows), at)), PROCESS: pa.array([self._process] * len(rows))}
        for name, values in marks.items():
            rows = rows.append_column(name, values)
        return rows

    def _rows(self, request_id: str, served: ServedRequest, items: list[Any]) -> pa.Table:
        """Return the rows of an answer, one for each item that was looked up."""
        assert served.items is not None and self.spec.item is not None
        places = {item: at for at, item in enumerate(served.items[self.spec.item].to_pylist())}
        at = [places[item] for item in items if item in places]
        taken, count = served.items.take(pa.array(at, pa.int64())), len(at)
        columns: dict[str, Any] = {
            REQUEST_ID: pa.array([request_id] * count, pa.string()),
            POSITION: pa.array([n for n, item in enumerate(items) if item in places], pa.int64()),
            EVENT_TIME: pa.array(np.full(count, served.at)),
            REFRESHED_AT: pa.array(np.full(count, served.refreshed_at)),
            LOADED_UNTIL: pa.array(np.full(count, self._loaded_until)),
            PROCESS: pa.array([self._process] * count, pa.string()),
        }
        for name in dict.fromkeys([self.spec.item, *(c for table in self.spec.feature_tables for c in table.row_columns)]):
            kind = ARROW_TYPES[self.spec.column_types[name]]
            held = name in taken.column_names
            columns[name] = taken[name].cast(kind) if held else pa.array([served.given.get(name)] * count, kind)
        for name in (name for value in self.spec.table_values.values() for name in table_columns(self.spec, value)):
            held = name in taken.column_names
            columns[name] = taken[name] if held else served.of_request[name].take(pa.array(np.zeros(count, np.int64)))
        return pa.table(columns)

    def _write(self, kind: str, rows: pa.Table) -> None:
        replace_table(rows, self.folder / f"{kind}-{time.time_ns():020d}-{self._process.split('-')[0]}.parquet")
