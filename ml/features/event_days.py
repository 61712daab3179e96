"""Writes one day of `feature_tables`: the events of the day from which values as of later instants are computed.

The partition holds `rows/part-00000.parquet` (event_time, the columns that the feature tables read, `arrived`, and
`replaced_at` if a label was corrected; in event-time order) and the manifest. It is made from the rows of the log once. If it
is made again after the log's day has changed, the events that it had keep their place, and new ones are marked as arrived late:
they are known from the end of the newest day that was made before them. An event whose label was corrected ends at that
instant, and its new version begins. So a backfill never changes a value of a row that already exists. A log that was changed by
removing rows keeps the removed events; to start again without them, delete the partition. All of this also holds if the feature
tables read other columns than when the day was made, but not if the log is read in another way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.days import day_bounds
from ml.features.event_versions import add_changes
from ml.features.point_in_time.event_log import ARRIVED, REPLACED, EventLog
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
        corrected: Number of times that the label of an event was corrected.
    """

    rows: int
    late: int
    removed: int
    corrected: int


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
    if (stored := _stored(spec, day, lake)) is not None:
        newest = max(day, *lake.days(FEATURE_TABLES, spec.name))
        changed = add_changes(spec, stored, events, day_bounds(newest, spec.zone)[1])
        events, removed = changed.log, changed.removed
    rows = events.rows
    corrected = len(rows) - rows[REPLACED].null_count
    late = int(np.count_nonzero(rows[ARRIVED].to_numpy())) - corrected  # each correction adds a version
    done = EventDay(len(rows) - corrected, late, removed, corrected)
    with lake.write(FEATURE_TABLES, spec.name, day) as staging:
        # Days without corrections keep the format without `replaced_at`.
        write_table(rows if corrected else rows.drop_columns([REPLACED]), staging / "rows" / "part-00000.parquet")
        stats = {name: count for name, count in asdict(done).items() if corrected or name != "corrected"}
        lake.write_manifest(staging, stats | {"fingerprint": fingerprint} | made_from)
    return done


def _stored(spec: DatasetSpec, day: str, lake: Lake) -> pa.Table | None:
    """Returns the events that a day has, with the columns that tables read when it was made; None without comparable ones.

    If the log was read in another way then, its rows had other values, so the events start again.
    """
    if not lake.has(FEATURE_TABLES, spec.name, day):
        return None
    parts = event_parts(lake, spec.name, day)
    types = spec.source.columns | spec.action_columns
    with UPath(parts[0]).open("rb") as file:
        columns = [name for name in pq.read_schema(file).names if name not in (EVENT_TIME, ARRIVED, REPLACED)]
    if not types.keys() >= set(columns):
        return None
    fingerprint = spec.events_fingerprint({name: types[name] for name in columns})
    if not lake.is_current(FEATURE_TABLES, spec.name, day, fingerprint):
        return None
    return pa.concat_tables([read_parquet(part) for part in parts])


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
    between = (ds.field(EVENT_TIME) >= since) & (ds.field(EVENT_TIME) < until)
    days = [ds.dataset(path.path, filesystem=path.fs, format="parquet").to_table(filter=between) for path in paths]
    return EventLog.of(spec, pa.concat_tables(days, promote_options="default"))  # not every day has the column `REPLACED`
