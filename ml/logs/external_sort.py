"""Sorts a day that does not fit in memory: sorted runs on disk, which are merged into parts.

A run is an Arrow file of rows in event-time order. Parts are ranges of event time. They are cut at seconds, or by row number
within one instant, so that the parts are the same however the log was divided into runs. `ml.logs.ingest` makes the runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from upath import UPath

from ml.days import MICROSECONDS_PER_SECOND
from ml.parquet import write_batches
from ml.schema import EVENT_TIME

BATCH_ROWS = 1 << 16
ROW_GROUP = 1 << 17


@dataclass(frozen=True)
class SortedRun:
    """A file of rows in event-time order, and how they are spread over S seconds.

    Attributes:
        path: Arrow IPC file.
        seconds: The seconds that have rows, int64 [S], ascending.
        rows: Number of rows in each second, int64 [S].
        first: Earliest event time in each second, int64 [S].
        last: Latest event time in each second, int64 [S].
        batch_rows: Rows of each batch of the file, except the last.
    """

    path: str
    seconds: NDArray[np.int64]
    rows: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    batch_rows: int = BATCH_ROWS


@dataclass(frozen=True)
class RunRange:
    """Rows `start` to `stop` of a run, which has `batch_rows` rows in each batch."""

    path: str
    start: int
    stop: int
    batch_rows: int = BATCH_ROWS


def sort_by_time(table: pa.Table) -> pa.Table:
    """Sorts rows by event time. Rows of one instant keep their order."""
    times = table.column(EVENT_TIME).to_numpy()
    return table.take(pa.array(np.argsort(times, kind="stable"))) if (times[1:] < times[:-1]).any() else table


def write_run(table: pa.Table, path: str, batch_rows: int = BATCH_ROWS) -> SortedRun:
    """Writes a run of rows that are already in time order. A range is read in whole batches, so wide rows need smaller ones."""
    times = table.column(EVENT_TIME).to_numpy()
    with UPath(path).open("wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        for start in range(0, len(times), batch_rows):  # `read_range` relies on batches of exactly this size
            writer.write_batch(table.slice(start, batch_rows).combine_chunks().to_batches()[0])
    seconds, first = np.unique(times // MICROSECONDS_PER_SECOND, return_index=True)
    rows = np.diff(np.append(first, len(times)))
    return SortedRun(path, seconds, rows, times[first], times[first + rows - 1], batch_rows)


def plan_parts(runs: Sequence[SortedRun], part_rows: int) -> list[list[RunRange]]:
    """Divides runs into parts by ranges of event time.

    A part holds whole seconds and at most `part_rows` rows, or one second that has more. A second whose rows all have the same
    event time needs no sorting, so it is divided after every `part_rows`.

    Returns:
        The ranges that make up each part; parts in time order, ranges in the order of the runs.
    """
    if not runs:
        return []
    seconds, where = np.unique(np.concatenate([run.seconds for run in runs]), return_inverse=True)
    totals = np.bincount(where, np.concatenate([run.rows for run in runs])).astype(np.int64)
    first, last = np.full(len(seconds), np.iinfo(np.int64).max), np.full(len(seconds), np.iinfo(np.int64).min)
    np.minimum.at(first, where, np.concatenate([run.first for run in runs]))
    np.maximum.at(last, where, np.concatenate([run.last for run in runs]))
    ends = np.cumsum(totals)
    parts: list[list[RunRange]] = []
    begin = 0
    while begin < len(seconds):
        before = int(ends[begin - 1]) if begin else 0
        end = max(int(np.searchsorted(ends, before + part_rows, side="right")), begin + 1)
        ranges = [found for run in runs if (found := _within(run, int(seconds[begin]), int(seconds[end - 1])))]
        if totals[begin] > part_rows and first[begin] == last[begin]:
            parts += _split(ranges, part_rows)
        else:
            parts.append(ranges)
        begin = end
    return parts


def _within(run: SortedRun, first: int, last: int) -> RunRange | None:
    ends = np.append(0, np.cumsum(run.rows))
    low, high = np.searchsorted(run.seconds, first), np.searchsorted(run.seconds, last, side="right")
    return RunRange(run.path, int(ends[low]), int(ends[high]), run.batch_rows) if low < high else None


def _split(ranges: Iterable[RunRange], part_rows: int) -> list[list[RunRange]]:
    parts: list[list[RunRange]] = []
    room = 0
    for one in ranges:
        start = one.start
        while start < one.stop:
            if not room:
                parts.append([])
                room = part_rows
            stop = min(one.stop, start + room)
            parts[-1].append(replace(one, start=start, stop=stop))
            start, room = stop, room - (stop - start)
    return parts


def write_part(part: tuple[str, Sequence[RunRange]]) -> None:
    """Merges the ranges of a part into one Parquet file. Rows of one instant keep the order of the runs."""
    path, ranges = part
    table = sort_by_time(pa.concat_tables([read_range(one) for one in ranges]).combine_chunks())
    write_parquet([table], table.schema, path)


def read_range(part: RunRange) -> pa.Table:
    """Reads the rows of a range of a sorted run."""
    with UPath(part.path).open("rb") as file, pa.ipc.open_file(file) as reader:
        low, high = part.start // part.batch_rows, -(-part.stop // part.batch_rows)
        batches = [reader.get_batch(i) for i in range(low, high)]
        return pa.Table.from_batches(batches, reader.schema).slice(part.start - low * part.batch_rows, part.stop - part.start)


def write_parquet(tables: Iterable[pa.Table], schema: pa.Schema, path: str) -> None:
    """Writes a file of rows that are in event-time order.

    Rows are ordered by event time, so only its minimum and maximum distinguish row groups.
    """
    batches = (batch for table in tables for batch in table.to_batches())
    write_batches(batches, schema, path, row_group=ROW_GROUP, statistics=[EVENT_TIME])
