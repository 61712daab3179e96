"""Reads blocks with the times and days of their rows and bad lines: the part that the index and ingestion share.

`ml.logs.index` decides which blocks a day needs, `ml.logs.ingest` writes a day's rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from xxhash import xxh3_64_hexdigest

from ml.catalog.log_spec import LogSpec
from ml.logs.block_ranges import BlockRange
from ml.logs.formats import read_blocks
from ml.logs.parsed_blocks import ParsedBlock
from ml.logs.sources import file_day
from ml.logs.validate_rows import AFTER, BEFORE, FAULTS, UNPLACED, is_outside, validate_rows


@dataclass(frozen=True)
class ValidatedBlock:
    """N good rows and Q bad lines of one block.

    Attributes:
        index: Number of the block in its file.
        num_lines: Lines of the block, a header included.
        header_lines: How many of them are a header.
        table: Good rows with the source's columns, [N].
        row_lines: Line of each row within the block, int64 [N].
        times: Event times, int64 [N], microseconds since 1970 UTC; 0 in a log without a clock.
        days: Index of the log's day of each row, int32 [N]; UNPLACED in a log without a clock.
        bad_lines: Bad lines within the block, int64 [Q].
        bad_days: Their days, int32 [Q]: the line's own, or the day of the good row before it; UNPLACED without either.
        reasons: Why they are bad, [Q].
        texts: Their first bytes, [Q].
        before, after: Number of lines before the log's first day and after its last: rows, and bad lines that follow them.
        first_day: Day of the first row, good or outside the log's days; UNPLACED without one.
        last_day: Day of the last such row.
        digests: Computes a hash of what the lines of each day hold, by index of the day; UNPLACED for lines without a day.
        absent: Columns whose key no line has, in JSON; None in a block without rows.
    """

    index: int
    num_lines: int
    header_lines: int
    table: pa.Table
    row_lines: NDArray[np.int64]
    times: NDArray[np.int64]
    days: NDArray[np.int32]
    bad_lines: NDArray[np.int64]
    bad_days: NDArray[np.int32]
    reasons: list[str]
    texts: list[bytes]
    before: int = 0
    after: int = 0
    first_day: int = UNPLACED
    last_day: int = UNPLACED
    digests: Callable[[], dict[int, str]] = dict
    absent: frozenset[str] | None = frozenset()


def read_validated_blocks(log: LogSpec, part: BlockRange) -> Iterator[ValidatedBlock]:
    """Reads, types and validates the blocks of a range. Raises `WrongFile` if the file lacks a column."""
    day = file_day(log, part.file)
    for block in read_blocks(log.source, part.file, part.first, part.wanted, log.time):
        yield _validate(log, block, day)


def _validate(log: LogSpec, block: ParsedBlock, file_day: int | None) -> ValidatedBlock:
    found = validate_rows(log, block.table, file_day)
    bad = found.fault != 0
    placed_lines, placed_days = block.row_lines[~bad], found.days[~bad]
    good = ~(bad | found.outside)
    table, row_lines, times, days = block.table, block.row_lines, found.times, found.days
    bad_lines, reasons, bad_days = block.bad_lines, block.reasons, np.full(len(block.bad_lines), UNPLACED, np.int32)
    if not good.all():
        table, row_lines, times, days = table.filter(pa.array(good)), row_lines[good], times[good], days[good]
    if bad.any():
        bad_lines = np.concatenate([bad_lines, block.row_lines[bad]])
        order = np.argsort(bad_lines)
        both = reasons + [FAULTS[fault] for fault in found.fault[bad].tolist()]
        bad_lines, reasons = bad_lines[order], [both[i] for i in order.tolist()]
        bad_days = np.concatenate([bad_days, found.days[bad]])[order]
    preceding = np.concatenate([np.full(1, UNPLACED, np.int32), placed_days])[np.searchsorted(placed_lines, bad_lines)]
    bad_days = np.where(bad_days == UNPLACED, preceding, bad_days)
    line_days = np.full(block.num_lines, UNPLACED, np.int32)
    line_days[block.row_lines], line_days[bad_lines] = found.days, bad_days
    outside = np.concatenate([found.days[found.outside & ~bad], bad_days[is_outside(bad_days)]])
    if not (kept := ~is_outside(bad_days)).all():
        bad_lines, bad_days = bad_lines[kept], bad_days[kept]
        reasons = [reason for reason, keep in zip(reasons, kept.tolist(), strict=True) if keep]
    return ValidatedBlock(
        index=block.index,
        num_lines=block.num_lines,
        header_lines=block.header_lines,
        table=table,
        row_lines=row_lines,
        times=times,
        days=days,
        bad_lines=bad_lines,
        bad_days=bad_days,
        reasons=reasons,
        texts=[block.text_of(line) for line in bad_lines.tolist()],
        before=int(np.count_nonzero(outside == BEFORE)),
        after=int(np.count_nonzero(outside == AFTER)),
        first_day=int(placed_days[0]) if len(placed_days) else UNPLACED,
        last_day=int(placed_days[-1]) if len(placed_days) else UNPLACED,
        digests=partial(_digests, block, line_days),
        absent=block.absent,
    )


def _digests(block: ParsedBlock, days: NDArray[np.int32]) -> dict[int, str]:
    """Hashes the lines of each of the log's days separately, so that a change of one day leaves the others as they are."""
    days = days[block.header_lines :]
    in_order = bool((days[1:] >= days[:-1]).all())
    digests: dict[int, str] = {}
    for day in np.unique(days[~is_outside(days)]).tolist():
        if in_order:
            first, stop = np.searchsorted(days, [day, day + 1]) + block.header_lines
            lines: slice | NDArray[np.bool_] = slice(int(first), int(stop))
        else:
            lines = np.concatenate([np.zeros(block.header_lines, bool), days == day])
        digests[day] = xxh3_64_hexdigest(block.content_of(lines))
    return digests
