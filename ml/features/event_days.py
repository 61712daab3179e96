"""Writes one day of `feature_tables`: the events of the day from which values as of later instants are computed.

The partition holds `rows/part-00000.parquet` (event_time, the columns that the feature tables read, and `arrived`; in
event-time order) and the manifest. It is made from the rows of the log once. If it is made again after the log's day has
changed, the events that it had keep their place, and new ones are marked as arrived late: they are known from the end of the
newest day that was made before them. So a backfill never changes a value of a row that already exists. A log that was changed
by removing rows keeps the removed events; to start again without them, delete the partition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from numpy.typing import NDArray
from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.days import day_bounds
from ml.features.hashing import hash_values
from ml.features.point_in_time.event_log import ARRIVED, EventLog
from ml.hashing import mix64_array
from ml.lake import Lake
from ml.logs.read import raw_parts
from ml.parquet import read_parquet, write_table
from ml.schema import EVENT_TIME
from ml.stages import FEATURE_TABLES


@dataclass(frozen=True)
class EventDay:
    """Statistics of a written day.

    Attributes:
        rows: Number of events.
        late: Number of events that arrived after the day was first made.
        removed: Number of events that the log no longer has.
    """

    rows: int
    late: int
    removed: int


def write_event_day(spec: DatasetSpec, day: str, lake: Lake) -> EventDay:
    """Writes `feature_tables` of a day into the lake.

    Args:
        spec: A dataset with feature tables.
        day: The partition key.
        lake: Where the log is stored and the events are written.

    Returns:
        Statistics of the day.

    Raises:
        MissingPartition: The day of the log is not in the lake.
        StalePartition: It was made under another version of the catalog entry.
    """
    log, fingerprint = spec.examples_log, spec.fingerprint_of(FEATURE_TABLES)
    lake.require(log.stage, spec.name, day, fingerprint=log.fingerprint)
    made_from = lake.lineage(spec.name, [(log.stage, day)])
    columns = [EVENT_TIME, *spec.table_columns]
    parts = raw_parts(lake, spec.name, day, log.stage)
    events = EventLog.of(spec, pa.concat_tables([read_parquet(part, columns) for part in parts]))
    removed = 0
    if lake.is_current(FEATURE_TABLES, spec.name, day, fingerprint):
        before = EventLog.of(spec, pa.concat_tables([read_parquet(part) for part in event_parts(lake, spec.name, day)]))
        newest = max(day, *lake.days(FEATURE_TABLES, spec.name))
        events, removed = _extended(before, events, day_bounds(newest, spec.zone)[1])
    late = int(np.count_nonzero(events.rows[ARRIVED].to_numpy()))
    with lake.write(FEATURE_TABLES, spec.name, day) as staging:
        write_table(events.rows, staging / "rows" / "part-00000.parquet")
        manifest: dict[str, Any] = {"rows": len(events.rows), "late": late, "removed": removed, "fingerprint": fingerprint}
        lake.write_manifest(staging, manifest | made_from)
    return EventDay(len(events.rows), late, removed)


def event_parts(lake: Lake, dataset: str, day: str) -> list[str]:
    """Lists the Parquet files of a day's events. Raises `MissingPartition`."""
    return raw_parts(lake, dataset, day, FEATURE_TABLES)


def read_events(spec: DatasetSpec, parts: Sequence[str], since: int, until: int) -> EventLog:
    """Reads the events in `[since, until)` of consecutive days.

    Args:
        spec: The dataset.
        parts: Files of the days' events, in order.
        since: First instant in microseconds.
        until: Instant after the last one.
    """
    if not parts:
        return EventLog.empty(spec)
    paths = [UPath(part) for part in parts]
    dataset = ds.dataset([path.path for path in paths], filesystem=paths[0].fs, format="parquet")
    time = ds.field(EVENT_TIME)
    return EventLog.of(spec, dataset.to_table(filter=(time >= since) & (time < until)))


def _extended(before: EventLog, now: EventLog, arrived: int) -> tuple[EventLog, int]:
    """Adds the events that were not there before, and returns the number of those that no longer are."""
    old, new = _identities(before.rows), _identities(now.rows)
    added = now.rows.filter(pa.array(~np.isin(new, old)))
    place = added.schema.get_field_index(ARRIVED)
    added = added.set_column(place, ARRIVED, pa.array(np.full(len(added), arrived)))
    rows = pa.concat_tables([before.rows, added])
    order = np.argsort(rows[EVENT_TIME].to_numpy(), kind="stable")
    return EventLog(rows.take(pa.array(order)).combine_chunks()), int(np.count_nonzero(~np.isin(old, new)))


def _identities(rows: pa.Table) -> NDArray[np.uint64]:
    """Returns a hash of each row's values (uint64 [N]); rows with equal values are numbered, so that each has its own."""
    key = rows[EVENT_TIME].to_numpy().view(np.uint64)
    for name in rows.column_names:
        if name not in (EVENT_TIME, ARRIVED):
            key = mix64_array(key) + hash_values("event", rows[name].combine_chunks()).view(np.uint64)
    order = np.argsort(key, kind="stable")
    first = np.concatenate(([True], key[order][1:] != key[order][:-1])) if len(key) else np.zeros(0, np.bool_)
    starts = np.maximum.accumulate(np.where(first, np.arange(len(key)), 0))
    number = np.empty(len(key), np.uint64)
    number[order] = np.arange(len(key)) - starts
    return mix64_array(key) + number
