"""A file's blocks as typed rows and quarantined lines, whatever its format: the one way in for everything that reads logs.

What rows mean (time, label, day) is `ml.logs.validate_rows`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ml.catalog.reading import Source
from ml.logs.quarantine import TEXT_BYTES, TOO_LONG, damaged
from ml.logs.sources import LogFile
from ml.logs.streams import Block, blocks
from ml.logs.text.layout import BOM, Layout
from ml.logs.text.parse import parse_block


@dataclass(frozen=True)
class Records:
    """N rows and Q bad lines of block `index` of a file.

    table: the source's columns, [N]. lines: int64 [N], ascending. bad: int64 [Q], ascending; reasons: [Q].
    Lines count from 0 at the block's first, a header included; extent is how many there are, header how many are one.
    text_of: the bytes of a line, at most TEXT_BYTES.
    """

    index: int
    extent: int
    header: int
    table: pa.Table
    lines: NDArray[np.int64]
    bad: NDArray[np.int64]
    reasons: list[str]
    text_of: Callable[[int], bytes]


def read_records(source: Source, file: LogFile, first: int = 0, wanted: Collection[int] | None = None) -> Iterator[Records]:
    """The records of a file, block by block (row group by row group for Parquet), from block `first`; only `wanted` ones.

    Raises `WrongFile` where a file lacks a column of the source. What is truncated or corrupt ends in one bad line.
    """
    if source.format == "parquet":
        from ml.logs.parquet import read_row_groups

        yield from read_row_groups(source, file, wanted)
        return
    for layout, block, header, data in _blocks(source, file, first, wanted):
        yield _records(layout, block, data, header)


def count_records(
    source: Source, file: LogFile, first: int = 0, wanted: Collection[int] | None = None
) -> Iterator[tuple[int, int, int]]:
    """Number, extent and header of each of the `Records` that `read_records` gives, for a fraction of the work."""
    if source.format == "parquet":  # a footer does not know which of its row groups are damaged
        yield from ((one.index, one.extent, one.header) for one in read_records(source, file, first, wanted))
        return
    for _, block, header, data in _blocks(source, file, first, wanted):
        lines = data.count(b"\n") + (not data.endswith(b"\n") and bool(data))
        yield block.index, header + lines + len(_ends(block)), header


def _blocks(
    source: Source, file: LogFile, first: int, wanted: Collection[int] | None
) -> Iterator[tuple[Layout, Block, int, bytes]]:
    """Blocks, each with the file's layout, how many lines of header it has, and its data behind these."""
    headed = source.header and source.format != "jsonl"
    layout = None if headed else Layout.declared(source)
    last = None if wanted is None else max(wanted, default=-1)
    if headed and first > 0:
        layout = _layout_from_start(source, file)
    # A file that can not be split is unpacked from its beginning anyway, and then block 0 brings the header.
    for block in blocks(file, first if file.splittable else 0, last):
        data, header = block.data, b""
        if block.index == 0:
            data = data.removeprefix(BOM)
            if headed and data:
                end = data.find(b"\n") + 1 or len(data)
                header, data = data[:end], data[end:]
                layout = Layout.from_header(source, header, file.name)
        if block.index >= first and (wanted is None or block.index in wanted):
            yield layout or Layout.declared(source), block, int(bool(header)), data


def _layout_from_start(source: Source, file: LogFile) -> Layout | None:
    if not file.splittable:
        return None
    start = next(iter(blocks(file, 0, 0)), None)
    line = start.data.removeprefix(BOM).split(b"\n", 1)[0] if start else b""
    return Layout.from_header(source, line, file.name)


def _records(layout: Layout, block: Block, data: bytes, header: int) -> Records:
    parsed = parse_block(layout, data)
    extent = header + parsed.line_count
    ends = {extent + n: end for n, end in enumerate(_ends(block))}
    bad = {header + line: reason for line, reason in parsed.bad.items()} | {line: why for line, (why, _) in ends.items()}

    def text_of(line: int) -> bytes:
        return (ends[line][1] if line in ends else parsed.text.text(line - header))[:TEXT_BYTES]

    numbers = np.fromiter(bad, np.int64, len(bad))
    rows = parsed.lines + header
    return Records(block.index, extent + len(ends), header, parsed.table, rows, numbers, list(bad.values()), text_of)


def _ends(block: Block) -> list[tuple[str, bytes]]:
    """Reason and text of what a block ends in that is not among its data: each counts as one bad line."""
    ends = [(TOO_LONG, block.too_long)] if block.too_long is not None else []
    return ends + ([(damaged(block.damaged), block.torn)] if block.damaged is not None else [])
