"""Events of the days before a day of arriving rows, on which its features depend.

At midnight the lake does not have the day that is over, because the daily assets make it later. Its events are then read from
the rows that were taken from the stream, which are kept until a later day reads them from the lake, or does not need them.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.days import MICROSECONDS_PER_HOUR, day_bounds
from ml.features.clean_task import earlier_days
from ml.features.event_days import event_parts, read_events
from ml.features.point_in_time.event_log import EventLog, table_days
from ml.lake import Lake
from ml.logs.read import raw_parts
from ml.online.examples import event_columns
from ml.parquet import read_parquet
from ml.schema import EVENT_TIME
from ml.stages import FEATURE_TABLES, RAW_LOGS

TAKEN = "taken"
"""Where events of days are read that the lake does not have: the rows that were taken from the stream."""


def find_earlier(spec: DatasetSpec, day: str, lake: Lake, taken: UPath) -> dict[str, list[str]]:
    """Return the days before a day whose events are read, by where they are: a stage of the lake, or `TAKEN`.

    Args:
        spec: The dataset.
        day: `YYYY-MM-DD`.
        lake: Where daily partitions are stored.
        taken: Folder of the rows that were taken from the stream, by day.
    """
    needed = {RAW_LOGS: earlier_days(spec, day), FEATURE_TABLES: table_days(spec, day)}
    current = spec.fingerprint_of(FEATURE_TABLES)
    held = {
        RAW_LOGS: {other for other in needed[RAW_LOGS] if lake.has(RAW_LOGS, spec.name, other)},
        FEATURE_TABLES: {o for o in needed[FEATURE_TABLES] if lake.is_current(FEATURE_TABLES, spec.name, o, current)},
    }
    missing = {other for stage, days in needed.items() for other in days if other not in held[stage]}
    from_stream = {other for other in missing if (taken / other).exists()}
    return {stage: sorted(days - from_stream) for stage, days in held.items()} | {TAKEN: sorted(from_stream)}


def events_before(spec: DatasetSpec, earlier: Mapping[str, list[str]], lake: Lake, taken: UPath) -> pa.Table | None:
    """Read the earlier events from which negatives are drawn, in time order; None without any, or if none are drawn.

    Args:
        spec: The dataset.
        earlier: What `find_earlier` returned.
        lake: Where daily partitions are stored.
        taken: As for `find_earlier`.
    """
    if spec.label.negatives is None:
        return None
    tables = []
    for other, from_stream in _in_order(earlier, RAW_LOGS):
        parts = taken_parts(taken / other) if from_stream else [UPath(part) for part in raw_parts(lake, spec.name, other)]
        tables += [pq.read_table(part.path, columns=event_columns(spec), filesystem=part.fs) for part in parts]
    return pa.concat_tables(tables).combine_chunks() if tables else None


def known_before(spec: DatasetSpec, day: str, earlier: Mapping[str, list[str]], lake: Lake, taken: UPath) -> EventLog:
    """Read the earlier events that the feature tables of a day can reach; none without feature tables.

    Args:
        spec: The dataset.
        day: `YYYY-MM-DD`.
        earlier: What `find_earlier` returned for the day.
        lake: Where daily partitions are stored.
        taken: As for `find_earlier`.
    """
    if not spec.feature_tables:
        return EventLog.empty(spec)
    first, _ = day_bounds(day, spec.zone)
    since, logs = first - round(spec.table_look_back_hours * MICROSECONDS_PER_HOUR), [EventLog.empty(spec)]
    for other, from_stream in _in_order(earlier, FEATURE_TABLES):
        if from_stream:
            rows = [read_parquet(part, [EVENT_TIME, *spec.table_columns]) for part in taken_parts(taken / other)]
            logs += [EventLog.of(spec, table.filter(pc.field(EVENT_TIME) >= since)) for table in rows]
        else:
            logs.append(read_events(spec, event_parts(lake, spec.name, other), since, first))
    return EventLog.join(logs)


def delete_unneeded_rows(spec: DatasetSpec, day: str, earlier: Mapping[str, list[str]], taken: UPath) -> None:
    """Delete the rows of the days before a day that it does not read; arguments as for `known_before`."""
    for folder in list(taken.iterdir()) if taken.exists() else ():
        if folder.name < day and folder.name not in earlier[TAKEN] and spec.first_day <= folder.name:
            folder.fs.rm(folder.path, recursive=True)


def taken_parts(folder: UPath) -> list[UPath]:
    """List the files of the rows that a day has taken from a stream, in order."""
    return sorted(folder.glob("*.parquet"), key=lambda path: path.name)


def _in_order(earlier: Mapping[str, list[str]], stage: str) -> list[tuple[str, bool]]:
    """Return the days in order, and whether each is read from the rows that were taken from the stream."""
    return sorted([(other, False) for other in earlier[stage]] + [(other, True) for other in earlier[TAKEN]])
