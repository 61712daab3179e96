"""Reads blocks with the times and days of their rows and bad lines: the part that the index and ingestion share.

`ml.logs.index` decides which blocks a day needs, `ml.logs.ingest` writes a day's rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ml.catalog.log_spec import LogSpec
from ml.logs.block_ranges import BlockRange
from ml.logs.formats import read_blocks
from ml.logs.parsed_blocks import ParsedBlock
from ml.logs.sources import file_day
from ml.logs.validate_rows import FAULTS, UNPLACED, validate_rows


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
    absent: frozenset[str] | None = frozenset()


def read_validated_blocks(log: LogSpec, part: BlockRange) -> Iterator[ValidatedBlock]:
    """Reads, types and validates the blocks of a range. Raises `WrongFile` if the file lacks a column."""
    day = file_day(log, part.file)
    for block in read_blocks(log.source, part.file, part.first, part.wanted, log.time):
        yield _validate(log, block, day)


def _validate(log: LogSpec, block: ParsedBlock, file_day: int | None) -> ValidatedBlock:
    found = validate_rows(log, block.table, file_day)
    good = found.fault == 0
    if good.all():
        table, row_lines, times, days = block.table, block.row_lines, found.times, found.days
        bad_lines, reasons, own_days = block.bad_lines, block.reasons, np.full(len(block.bad_lines), UNPLACED, np.int32)
    else:
        table, row_lines = block.table.filter(pa.array(good)), block.row_lines[good]
        times, days = found.times[good], found.days[good]
        bad_lines = np.concatenate([block.bad_lines, block.row_lines[~good]])
        order = np.argsort(bad_lines)
        both = block.reasons + [FAULTS[fault] for fault in found.fault[~good].tolist()]
        unplaced = np.full(len(block.bad_lines), UNPLACED, np.int32)
        bad_lines, reasons = bad_lines[order], [both[i] for i in order.tolist()]
        own_days = np.concatenate([unplaced, found.days[~good]])[order]
    before = np.concatenate([np.full(1, UNPLACED, np.int32), days])[np.searchsorted(row_lines, bad_lines)]
    return ValidatedBlock(
        index=block.index,
        num_lines=block.num_lines,
        header_lines=block.header_lines,
        table=table,
        row_lines=row_lines,
        times=times,
        days=days,
        bad_lines=bad_lines,
        bad_days=np.where(own_days == UNPLACED, before, own_days),
        reasons=reasons,
        texts=[block.text_of(line) for line in bad_lines.tolist()],
        absent=block.absent,
    )
