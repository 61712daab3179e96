"""Compares what the online store serves with values that are computed from the log, at the same instants.

A day of the log is replayed into a store, and every row of the day is looked up as of its instant. If the store has received
all events before a row, the values must be equal. With a lag, events of the last minutes are not in the store yet, and each
difference must be one that these events explain.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

from ml.catalog.feature_tables import FeatureTable
from ml.catalog.spec import DatasetSpec
from ml.days import MICROSECONDS_PER_HOUR, MICROSECONDS_PER_MINUTE, day_bounds
from ml.features.event_days import event_parts, read_events
from ml.features.online_store.differences import Differences, compare_value
from ml.features.online_store.plan import StorePlan
from ml.features.online_store.reader import StoreReader
from ml.features.online_store.writer import StoreWriter
from ml.features.point_in_time.event_log import EventLog, table_days
from ml.features.point_in_time.feature_tables import table_values
from ml.lake import Lake
from ml.schema import EVENT_TIME
from ml.stages import FEATURE_TABLES

PART_ROWS = 20_000


@dataclass(frozen=True)
class DayComparison:
    """The comparison of a day.

    Attributes:
        differences: For each value.
        events: Number of events that the store received.
        late: Number of events that arrived, or got another label, after their day was made. A stream does not have them.
        misses: Number of look-ups of entities without events, by table.
        lookups: Number of look-ups, by table.
    """

    differences: list[Differences]
    events: int
    late: int
    misses: dict[str, int]
    lookups: dict[str, int]

    @property
    def unexplained(self) -> int:
        """Values that differ although the store had received the events."""
        return sum(found.unexplained for found in self.differences)


def compare_day(spec: DatasetSpec, day: str, lake: Lake, *, lag_minutes: float = 0.0) -> DayComparison:
    """Replay a day into a store, and compare what it serves with the values of the log.

    The rows of the day are looked up as of their instants, and all entities of the day once more as of its end.

    Args:
        spec: A dataset with feature tables.
        day: The partition key.
        lake: The lake with `feature_tables` of the day and of the days that its windows reach.
        lag_minutes: Width of the slices in which the day arrives: a row is looked up before the events of its slice are in the
            store. With 0, all events are in the store.

    Raises:
        MissingPartition: The events of the day are not in the lake.
    """
    start, end = day_bounds(day, spec.zone)
    since = start - round(spec.table_look_back_hours * MICROSECONDS_PER_HOUR)
    held = [other for other in table_days(spec, day) if lake.has(FEATURE_TABLES, spec.name, other)]
    parts = [path for other in (*held, day) for path in event_parts(lake, spec.name, other)]
    log = read_events(spec, parts, since, end)
    in_time = log.as_of(0).rows
    rows = log.rows.filter(pa.array(log.rows[EVENT_TIME].to_numpy() >= start))
    edges = _edges(start, end, lag_minutes)
    served: dict[str, list[pa.RecordBatch]] = {table.name: [] for table in spec.feature_tables}
    explained: dict[str, list[dict[str, pa.Array]]] = {name: [] for name in served}
    requests: dict[str, list[pa.Table]] = {name: [] for name in served}
    with tempfile.TemporaryDirectory() as folder:
        plan = StorePlan.of(spec)
        with StoreWriter(Path(folder), plan, history_hours=(end - since) / MICROSECONDS_PER_HOUR + 1) as writer:
            reader, applied = StoreReader(Path(folder), plan), 0
            times = in_time[EVENT_TIME].to_numpy()
            for low, high in pairwise(edges):
                until = int(np.searchsorted(times, low if lag_minutes else end))
                _apply(writer, in_time.slice(applied, until - applied))
                applied = until
                for table in spec.feature_tables:
                    asked = _requests(rows, table, low, high, end)
                    requests[table.name].append(asked)
                    served[table.name].append(reader.lookup(table.name, asked, asked[EVENT_TIME].to_numpy()).columns)
                    known = EventLog(in_time.slice(0, until))
                    explained[table.name].append(table_values(asked, table, spec, known))
    differences = []
    for table in spec.feature_tables:
        asked = pa.concat_tables(requests[table.name]).combine_chunks()
        answers = pa.Table.from_batches(served[table.name]).combine_chunks()
        offline = table_values(asked, table, spec, log)
        for value in table.values:
            known = pa.chunked_array([part[value.name] for part in explained[table.name]]).combine_chunks()
            differences.append(
                compare_value(value.name, answers[value.name].combine_chunks(), _one(offline[value.name]), _one(known))
            )
    late = len(log.rows) - len(in_time)
    return DayComparison(differences, applied, late, dict(reader.misses), dict(reader.lookups))


def _edges(start: int, end: int, lag_minutes: float) -> list[int]:
    """Return the bounds of the slices of a day."""
    if not lag_minutes:
        return [start, end]
    return [*range(start, end, round(lag_minutes * MICROSECONDS_PER_MINUTE)), end]


def _apply(writer: StoreWriter, events: pa.Table) -> None:
    for at in range(0, len(events), PART_ROWS):
        writer.apply(events.slice(at, PART_ROWS), {})


def _requests(rows: pa.Table, table: FeatureTable, low: int, high: int, end: int) -> pa.Table:
    """Return the columns of a table's keys for the rows in `[low, high)`; at the end of the day, for all its entities too."""
    columns = list(dict.fromkeys(table.row_columns))
    times = rows[EVENT_TIME].to_numpy()
    asked = rows.slice(np.searchsorted(times, low), np.searchsorted(times, high) - np.searchsorted(times, low))
    asked = asked.select([EVENT_TIME, *columns])
    if high < end:
        return asked
    keys = rows.select(columns).group_by(columns).aggregate([]).select(columns)
    return pa.concat_tables([asked, keys.add_column(0, EVENT_TIME, pa.array(np.full(len(keys), end)))])


def _one(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
