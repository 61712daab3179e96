"""Rows of a file's blocks with their times and days, and bad lines with theirs: what index and ingestion have in common.

Which blocks a day needs is `ml.logs.index`; writing a day's rows is `ml.logs.ingest`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ml.catalog.log_spec import LogSpec
from ml.logs.parsed_blocks import Records, count_records, read_records
from ml.logs.sources import LogFile
from ml.logs.streams import BLOCK
from ml.logs.validate_rows import FAULTS, UNPLACED, examine

# Unpacked bytes that one task reads: enough to be worth a task, little enough to share a day among a few cores.
TASK_BYTES = 16 << 20


@dataclass(frozen=True)
class Scanned:
    """N good rows and Q bad lines of one block.

    table: [N] rows. lines: int64 [N], their lines within the block. times: int64 [N]. day: int32 [N] (UNPLACED in a log without
    a clock). bad: int64 [Q] lines within the block, with reasons [Q]. bad_day: int32 [Q], UNPLACED where the line's own time
    does not say. bad_after: int64 [Q], how many of the block's good rows come before it.
    """

    records: Records
    table: pa.Table
    lines: NDArray[np.int64]
    times: NDArray[np.int64]
    day: NDArray[np.int32]
    bad: NDArray[np.int64]
    reasons: list[str]
    bad_day: NDArray[np.int32]
    bad_after: NDArray[np.int64]


@dataclass(frozen=True)
class Slice:
    """Blocks of one file for one task. order: the file's place among the log's; wanted: None is every block from `first`."""

    file: LogFile
    order: int
    first: int = 0
    wanted: tuple[int, ...] | None = None

    @property
    def size(self) -> int:
        return len(self.wanted) * BLOCK if self.file.splittable and self.wanted is not None else self.file.size


def file_day(log: LogSpec, file: LogFile) -> int | None:
    """Index of a dated file's day, below 0 or beyond the last where it lies outside the log's range."""
    return None if file.day is None else (file.day - log.partitions.start).days


def cut(file: LogFile, order: int, wanted: Collection[int] | None = None) -> list[Slice]:
    """Slices of a file: of neighbouring blocks where it can be split, else one."""
    if not file.splittable:
        return [Slice(file, order, 0, None if wanted is None else tuple(sorted(wanted)))]
    numbers = sorted(range(max(-(-file.size // BLOCK), 1)) if wanted is None else wanted)
    step = max(TASK_BYTES // BLOCK, 1)
    groups = [tuple(numbers[i : i + step]) for i in range(0, len(numbers), step)]
    return [Slice(file, order, group[0], group) for group in groups]


def pack(slices: Sequence[Slice], task_bytes: int = TASK_BYTES) -> list[list[Slice]]:
    """Slices in their order, gathered into tasks of about as many bytes."""
    tasks: list[list[Slice]] = []
    room = 0
    for one in slices:
        if room <= 0:
            tasks.append([])
            room = task_bytes
        tasks[-1].append(one)
        room -= one.size
    return tasks


def scan(log: LogSpec, one: Slice) -> Iterator[Scanned]:
    """Read, type and examine the blocks of a slice. Raises `WrongFile`."""
    day_of_file = file_day(log, one.file)
    for records in read_records(log.source, one.file, one.first, one.wanted):
        found = examine(log, records.table, day_of_file)
        good = found.fault == 0
        if good.all():
            table, lines, bad, reasons = records.table, records.lines, records.bad, records.reasons
            times, day, bad_day = found.times, found.day, np.full(len(bad), UNPLACED, np.int32)
        else:
            table, lines = records.table.filter(pa.array(good)), records.lines[good]
            times, day = found.times[good], found.day[good]
            bad = np.concatenate([records.bad, records.lines[~good]])
            order = np.argsort(bad)
            both = records.reasons + [FAULTS[fault] for fault in found.fault[~good].tolist()]
            unplaced = np.full(len(records.bad), UNPLACED, np.int32)
            bad, reasons = bad[order], [both[i] for i in order.tolist()]
            bad_day = np.concatenate([unplaced, found.day[~good]])[order]
        yield Scanned(records, table, lines, times, day, bad, reasons, bad_day, np.searchsorted(lines, bad))


def count_lines(log: LogSpec, one: Slice) -> Iterator[tuple[int, int, int]]:
    """Number, extent and header lines of each block of a slice, for which nothing is parsed. Raises `WrongFile`."""
    return count_records(log.source, one.file, one.first, one.wanted)
