"""One task of ingestion: reads ranges of blocks, and writes the day's rows as parts or sorted runs, and its bad lines.

`ml.logs.ingest` plans the tasks of a day and combines what they wrote.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from upath import UPath

from ml.catalog.log_spec import LogSpec
from ml.logs.absent_keys import absent_everywhere
from ml.logs.block_cache import BlockCache
from ml.logs.block_ranges import BlockRange
from ml.logs.clock import partition_bounds, position_times
from ml.logs.external_sort import SortedRun, sort_by_time, write_parquet, write_run
from ml.logs.index import BlockPlacement
from ml.logs.quarantine import SCHEMA
from ml.logs.sources import file_day
from ml.logs.text.layout import Layout
from ml.logs.validate_rows import UNPLACED
from ml.logs.validated_blocks import ValidatedBlock, read_validated_blocks
from ml.schema import EVENT_TIME

# Quarantined lines as a task writes them: numbered within their block.
_BAD_SCHEMA = pa.schema([pa.field("file_number", pa.int64()), pa.field("block", pa.int64()), *SCHEMA])


@dataclass(frozen=True)
class IngestJob:
    """Settings that all tasks of a day share.

    Attributes:
        log: The log.
        day: Index of the day.
        staging: Folder in which the partition is written.
        in_order: Whether the log's blocks are in time order, so that rows become parts without sorting.
        parts: In a log without a clock: the line at which each day begins, int64 [days + 1].
        part_rows: Approximate number of rows of one part.
        cache: Blocks that were parsed for the index.
    """

    log: LogSpec
    day: int
    staging: UPath
    in_order: bool
    parts: NDArray[np.int64] | None
    part_rows: int
    cache: BlockCache | None


@dataclass(frozen=True)
class IngestTask:
    """Ranges of blocks to read, and the placement of each block by (file number, block)."""

    number: int
    ranges: list[BlockRange]
    placements: dict[tuple[int, int], BlockPlacement]


@dataclass(frozen=True)
class TaskResult:
    """What a task wrote.

    Attributes:
        rows: Rows of the day.
        runs: Sorted runs, in file and line order; none if rows were written as parts.
        bad: Parquet file of quarantined lines, if there are any.
        block_lines: (file number, block, lines) of every block that was read.
        absent: Columns whose key no line of these blocks has, in JSON; None if no block has rows.
    """

    rows: int
    runs: list[SortedRun]
    bad: str | None
    block_lines: list[tuple[int, int, int]]
    absent: frozenset[str] | None


def raw_schema(log: LogSpec) -> pa.Schema:
    """Arrow schema of a day's rows: `event_time` (int64, microseconds since 1970 UTC), then the source's columns."""
    return pa.schema([pa.field(EVENT_TIME, pa.int64()), *Layout.declared(log.source).schema])


def part_path(staging: UPath, *number: int) -> str:
    """Returns the path of a part of the day's rows. Paths sort in the order of their numbers."""
    return str(staging / "rows" / f"part-{'-'.join(f'{n:05d}' for n in number)}.parquet")


def ingest_task(job: IngestJob, task: IngestTask) -> TaskResult:
    """Reads the task's blocks, and writes the day's rows and bad lines below `job.staging`."""
    schema = raw_schema(job.log)
    runs: list[SortedRun] = []
    held: list[pa.Table] = []
    bad: list[pa.Table] = []
    block_lines: list[tuple[int, int, int]] = []
    absent: list[frozenset[str] | None] = []
    rows = written = 0

    def flush() -> None:
        nonlocal rows, written
        if not held:
            return
        table = sort_by_time(pa.concat_tables(held))
        if job.in_order:
            write_parquet([table], schema, part_path(job.staging, task.number, written))
        else:
            runs.append(write_run(table, str(job.staging / "scratch" / f"rows-{task.number:05d}-{written:05d}.arrow")))
        rows, written = rows + table.num_rows, written + 1
        held.clear()

    for part in task.ranges:
        for block in job.cache.read_blocks(job.log, part) if job.cache else read_validated_blocks(job.log, part):
            placement = task.placements.get((part.file_number, block.index))
            times, days, bad_days = _place(job, part, block, placement)
            mine = days == job.day
            if mine.any():
                table = block.table.add_column(0, schema.field(0), pa.array(times)).cast(schema)
                held.append(table if mine.all() else table.filter(pa.array(mine)))
            bad.append(_bad_table(part, block, np.flatnonzero(bad_days == job.day)))
            block_lines.append((part.file_number, block.index, block.num_lines))
            absent.append(block.absent)
            if sum(table.num_rows for table in held) >= job.part_rows:
                flush()
    flush()
    lines = pa.concat_tables([_BAD_SCHEMA.empty_table(), *bad])
    if not lines.num_rows:
        return TaskResult(rows, runs, None, block_lines, absent_everywhere(absent))
    path = str(job.staging / "scratch" / f"bad-{task.number:05d}.parquet")
    write_parquet([lines], _BAD_SCHEMA, path)
    return TaskResult(rows, runs, path, block_lines, absent_everywhere(absent))


def _place(
    job: IngestJob, part: BlockRange, block: ValidatedBlock, placement: BlockPlacement | None
) -> tuple[NDArray[np.int64], NDArray[np.int64] | NDArray[np.int32], NDArray[np.int64] | NDArray[np.int32]]:
    """Event times [N] and days [N] of a block's good rows, and days [Q] of its bad lines."""
    if job.parts is not None and placement is not None:
        lines, bad = placement.position + block.row_lines, placement.position + block.bad_lines
        days, bad_days = (np.searchsorted(job.parts, of, side="right") - 1 for of in (lines, bad))
        return position_times(lines, job.parts, partition_bounds(job.log)), days, bad_days
    inherited = placement.inherited_day if placement else file_day(job.log, part.file) or 0
    return block.times, block.days, np.where(block.bad_days == UNPLACED, inherited, block.bad_days)


def _bad_table(part: BlockRange, block: ValidatedBlock, which: NDArray[np.int64]) -> pa.Table:
    columns = [
        [part.file_number] * len(which),
        [block.index] * len(which),
        [part.file.name] * len(which),
        block.bad_lines[which].tolist(),
        [block.reasons[i] for i in which.tolist()],
        [block.texts[i] for i in which.tolist()],
    ]
    return pa.table(columns, schema=_BAD_SCHEMA)
