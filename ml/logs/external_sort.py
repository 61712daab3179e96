"""Sorted runs on disk, and merging them into parts: how a day is put in time order though no process holds all of it.

A run is an Arrow file of rows in event-time order. Parts are ranges of event time, cut where every division of the log
into runs cuts them: at seconds, or within one instant by row number. Who makes runs is `ml.logs.ingest`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from upath import UPath

from ml.days import MICROSECONDS_PER_SECOND
from ml.schema import EVENT_TIME

BATCH_ROWS = 1 << 16
ROW_GROUP = 1 << 17


@dataclass(frozen=True)
class Run:
    """Rows in event-time order. seconds: int64 [S] ascending, those with rows; rows: int64 [S] in each; first, last: int64 [S],
    the earliest and latest event time within each."""

    path: str
    seconds: NDArray[np.int64]
    rows: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]


@dataclass(frozen=True)
class Cut:
    """Rows `start` to `stop` of a run."""

    path: str
    start: int
    stop: int


def in_time_order(table: pa.Table) -> pa.Table:
    """Rows by event time; those of one instant keep their order."""
    times = table.column(EVENT_TIME).to_numpy()
    return table.take(pa.array(np.argsort(times, kind="stable"))) if (times[1:] < times[:-1]).any() else table


def write_run(table: pa.Table, path: str) -> Run:
    """Write rows that are in time order."""
    times = table.column(EVENT_TIME).to_numpy()
    with UPath(path).open("wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        for start in range(0, len(times), BATCH_ROWS):  # `read_cut` counts on batches of just this size
            writer.write_batch(table.slice(start, BATCH_ROWS).combine_chunks().to_batches()[0])
    seconds, first = np.unique(times // MICROSECONDS_PER_SECOND, return_index=True)
    rows = np.diff(np.append(first, len(times)))
    return Run(path, seconds, rows, times[first], times[first + rows - 1])


def plan_parts(runs: Sequence[Run], part_rows: int) -> list[list[Cut]]:
    """The cuts that make up each part, parts in time order and cuts in the runs' order.

    A part holds whole seconds and at most `part_rows` rows, or one second that has more. A second whose rows all have one
    event time needs no sorting, and is cut after every `part_rows`.
    """
    if not runs:
        return []
    seconds, where = np.unique(np.concatenate([run.seconds for run in runs]), return_inverse=True)
    totals = np.bincount(where, np.concatenate([run.rows for run in runs])).astype(np.int64)
    first, last = np.full(len(seconds), np.iinfo(np.int64).max), np.full(len(seconds), np.iinfo(np.int64).min)
    np.minimum.at(first, where, np.concatenate([run.first for run in runs]))
    np.maximum.at(last, where, np.concatenate([run.last for run in runs]))
    ends = np.cumsum(totals)
    parts: list[list[Cut]] = []
    begin = 0
    while begin < len(seconds):
        before = int(ends[begin - 1]) if begin else 0
        end = max(int(np.searchsorted(ends, before + part_rows, side="right")), begin + 1)
        cuts = [cut for run in runs if (cut := _within(run, int(seconds[begin]), int(seconds[end - 1])))]
        if totals[begin] > part_rows and first[begin] == last[begin]:
            parts += _pieces(cuts, part_rows)
        else:
            parts.append(cuts)
        begin = end
    return parts


def _within(run: Run, first: int, last: int) -> Cut | None:
    ends = np.append(0, np.cumsum(run.rows))
    low, high = np.searchsorted(run.seconds, first), np.searchsorted(run.seconds, last, side="right")
    return Cut(run.path, int(ends[low]), int(ends[high])) if low < high else None


def _pieces(cuts: Iterable[Cut], part_rows: int) -> list[list[Cut]]:
    parts: list[list[Cut]] = []
    room = 0
    for cut in cuts:
        start = cut.start
        while start < cut.stop:
            if not room:
                parts.append([])
                room = part_rows
            stop = min(cut.stop, start + room)
            parts[-1].append(Cut(cut.path, start, stop))
            start, room = stop, room - (stop - start)
    return parts


def write_part(part: tuple[str, Sequence[Cut]]) -> None:
    """Merge a part's cuts into one Parquet file. Of one instant, an earlier run's rows come first."""
    path, cuts = part
    table = in_time_order(pa.concat_tables([read_cut(cut) for cut in cuts]).combine_chunks())
    write_parquet([table], table.schema, path)


def read_cut(cut: Cut) -> pa.Table:
    with UPath(cut.path).open("rb") as file, pa.ipc.open_file(file) as reader:
        low, high = cut.start // BATCH_ROWS, -(-cut.stop // BATCH_ROWS)
        batches = [reader.get_batch(i) for i in range(low, high)]
        return pa.Table.from_batches(batches, reader.schema).slice(cut.start - low * BATCH_ROWS, cut.stop - cut.start)


def write_parquet(tables: Iterable[pa.Table], schema: pa.Schema, path: str) -> None:
    """One Parquet file whose bytes depend on the rows alone, not on how they come in tables.

    Only of event time, by which rows are ordered, can least and greatest values tell row groups apart.
    """
    options = {"compression": "zstd", "compression_level": 1, "write_statistics": [EVENT_TIME]}
    with UPath(path).open("wb") as sink, pq.ParquetWriter(sink, schema, **options) as writer:
        for group in _regroup(tables, schema):
            writer.write_table(group, row_group_size=ROW_GROUP)


def _regroup(tables: Iterable[pa.Table], schema: pa.Schema) -> Iterator[pa.Table]:
    held = schema.empty_table()
    for table in tables:
        held = pa.concat_tables([held, table])
        while held.num_rows >= ROW_GROUP:
            yield held.slice(0, ROW_GROUP).combine_chunks()
            held = held.slice(ROW_GROUP)
    if held.num_rows:
        yield held.combine_chunks()
