"""The online store: look-ups of 500 entities and events applied, against SQLite, and against a dictionary in one process.

A look-up computes two counts, a rate, a recency and the last five values of each entity, over 24 hours of events whose
entities follow a Zipf distribution. SQLite stores one row per event under (entity, time), in its write-ahead log, and
synchronises each transaction to disk, as the store does. The dictionary has a list of events per entity, which it searches by
bisection; no other process can read it, and it is lost with its process. All three return the same values. Times are CPU time
of the thread for look-ups, and wall time for writes, which wait for the disk.
"""

from __future__ import annotations

import sqlite3
import statistics
import tempfile
import time
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.result import Result
from ml.catalog.feature_tables import FeatureTable
from ml.catalog.spec import DatasetSpec
from ml.features.online_store.plan import StorePlan
from ml.features.online_store.reader import StoreReader
from ml.features.online_store.writer import StoreWriter
from ml.schema import EVENT_TIME

EVENTS, ENTITIES, PART, CANDIDATES, CALLS = 400_000, 50_000, 5_000, 500, 100
HOUR = 3_600_000_000
PRIOR, STRENGTH, MOST = 0.05, 20.0, 5
ENTRY = {
    "name": "shop",
    "description": "Events of the benchmark.",
    "source": {"files": "*", "format": "csv", "columns": {"at": "int", "item": "int", "clicked": "int", "user": "int"}},
    "time": {"column": "at", "unit": "us"},
    "partitions": {"start": "1970-01-01", "end": "1970-01-03"},
    "label": {"column": "clicked"},
    "sparse": ["item"],
}
TABLE = FeatureTable.model_validate(
    {
        "name": "item",
        "entity": ["item"],
        "values": [
            {"name": "seen_1h", "count": {"hours": 1}},
            {"name": "seen_24h", "count": {"hours": 24}},
            {"name": "ctr", "rate": {"column": "clicked", "hours": 24, "prior": PRIOR, "strength": STRENGTH}},
            {"name": "idle", "recency": {"hours": 24}},
            {"name": "last", "last": {"column": "user", "most": MOST, "hours": 24}},
        ],
    }
)
PLAN = StorePlan.of(DatasetSpec.model_validate(ENTRY | {"feature_tables": [TABLE.model_dump(mode="json")]}))
Values = list[tuple[int, int, float, float | None, list[int]]]


class Sqlite:
    """One row per event."""

    def __init__(self, file: Path) -> None:
        self._db = sqlite3.connect(file, isolation_level=None)
        self._db.execute("pragma journal_mode = wal")
        self._db.execute("pragma synchronous = full")
        self._db.execute(
            "create table events (item int, time int, number int, clicked int, user int, primary key (item, time, number)) "
            "without rowid"
        )
        self._number = 0

    def apply(self, rows: pa.Table) -> None:
        columns = [rows[name].to_pylist() for name in ("item", EVENT_TIME, "clicked", "user")]
        numbers = range(self._number, self._number + len(rows))
        self._number += len(rows)
        self._db.execute("begin")
        self._db.executemany(
            "insert into events values (?, ?, ?, ?, ?)",
            zip(columns[0], columns[1], numbers, columns[2], columns[3], strict=True),
        )
        self._db.execute("commit")

    def look_up(self, items: pa.Table, at: int) -> Values:
        found: Values = []
        for item in items["item"].to_pylist():
            hours = self._db.execute(
                "select count(*), sum(clicked), max(time), sum(time >= ?) from events "
                "where item = ? and time >= ? and time < ?",
                (at - HOUR, item, at - 24 * HOUR, at),
            ).fetchone()
            last = self._db.execute(
                "select user from events where item = ? and time >= ? and time < ? order by time desc, number desc limit ?",
                (item, at - 24 * HOUR, at, MOST),
            ).fetchall()
            found.append(_values(hours[3] or 0, hours[0], hours[1] or 0, hours[2], [user for (user,) in last], at))
        return found


class Dictionary:
    """A sorted list of events for each entity."""

    def __init__(self) -> None:
        self._events: dict[int, list[tuple[int, int, int, int]]] = {}
        self._number = 0

    def apply(self, rows: pa.Table) -> None:
        columns = (rows[name].to_pylist() for name in ("item", EVENT_TIME, "clicked", "user"))
        for item, at, clicked, user in zip(*columns, strict=True):
            insort(self._events.setdefault(item, []), (at, self._number, clicked, user))
            self._number += 1

    def look_up(self, items: pa.Table, at: int) -> Values:
        found: Values = []
        for item in items["item"].to_pylist():
            events = self._events.get(item, [])
            high, hour, day = (bisect_left(events, (time,)) for time in (at, at - HOUR, at - 24 * HOUR))
            clicks = sum(event[2] for event in events[day:high])
            newest = events[high - 1][0] if high > day else None
            last = [event[3] for event in events[max(day, high - MOST) : high][::-1]]
            found.append(_values(high - hour, high - day, clicks, newest, last, at))
        return found


def run() -> list[Result]:
    events = _events()
    with tempfile.TemporaryDirectory() as folder:
        sqlite, dictionary = Sqlite(Path(folder) / "events.db"), Dictionary()
        with StoreWriter(Path(folder) / "store", PLAN) as writer:
            rates = _write_rates(events, lambda rows: writer.apply(rows, {}), sqlite.apply, dictionary.apply)
        reader = StoreReader(Path(folder) / "store", PLAN)
        at = int(events[EVENT_TIME][-1].as_py()) + 1
        calls = list(_requests(events))
        for request in calls[:2]:
            assert _plain(reader, request, at) == sqlite.look_up(request, at) == dictionary.look_up(request, at)
        times = _look_up_seconds(
            calls,
            lambda request: reader.lookup("item", request, at),
            lambda request: sqlite.look_up(request, at),
            lambda request: dictionary.look_up(request, at),
        )
    note = f"{times[0] * 1e3:.2f} ms for {CANDIDATES} entities; SQLite {times[1] * 1e3:.2f}, dictionary {times[2] * 1e3:.2f} ms"
    names = ("SQLite, indexed by entity and time", "a dictionary in the process")
    found = []
    for number, name in enumerate(names, 1):
        found.append(
            Result(
                f"Online store, {CANDIDATES} entities looked up",
                "entities/s, CPU time",
                CANDIDATES / times[0],
                CANDIDATES / times[number],
                name,
                note=note,
            )
        )
    for number, name in enumerate(names, 1):
        written = f"transactions of {PART:,} events, synchronised to disk" if number == 1 else "the dictionary is not stored"
        found.append(Result("Online store, events applied", "events/s", rates[0], rates[number], name, note=written))
    return found


def _events() -> pa.Table:
    rng = np.random.default_rng(0)
    items = np.minimum(rng.zipf(1.2, EVENTS), ENTITIES)
    columns = {
        EVENT_TIME: np.sort(rng.integers(0, 26 * HOUR, EVENTS)),
        "item": items,
        "clicked": rng.integers(0, 2, EVENTS),
        "user": rng.integers(0, 100_000, EVENTS),
    }
    return pa.table(columns)


def _requests(events: pa.Table) -> Iterator[pa.Table]:
    """Entities of random events, so that frequent ones are looked up often, each once in a request."""
    rng = np.random.default_rng(1)
    distinct, counts = np.unique(events["item"].to_numpy(), return_counts=True)
    for _ in range(CALLS):
        yield pa.table({"item": rng.choice(distinct, CANDIDATES, replace=False, p=counts / counts.sum())})


def _write_rates(events: pa.Table, *writers: Callable[[pa.Table], object]) -> list[float]:
    """Return the events that each writer applies in a second; the first part warms up."""
    seconds = [0.0] * len(writers)
    for start in range(0, EVENTS, PART):
        for number, write in enumerate(writers):
            began = time.perf_counter()
            write(events.slice(start, PART))
            seconds[number] += (time.perf_counter() - began) * (start > 0)
    return [(EVENTS - PART) / taken for taken in seconds]


def _look_up_seconds(calls: list[pa.Table], *look_ups: Callable[[pa.Table], object]) -> list[float]:
    """Return the median CPU seconds of a look-up."""
    taken: list[list[float]] = [[] for _ in look_ups]
    for request in calls:
        for number, look_up in enumerate(look_ups):
            began = time.thread_time()
            look_up(request)
            taken[number].append(time.thread_time() - began)
    return [statistics.median(times) for times in taken]


def _plain(reader: StoreReader, request: pa.Table, at: int) -> Values:
    columns = reader.lookup("item", request, at).columns.to_pydict()
    return list(zip(*(columns[value.name] for value in TABLE.values), strict=True))


def _values(hour: int, day: int, clicks: int, newest: int | None, last: list[int], at: int):  # type: ignore[no-untyped-def]
    idle = None if newest is None else (at - newest) / 1e6
    return hour, day, (clicks + PRIOR * STRENGTH) / (day + STRENGTH), idle, last
