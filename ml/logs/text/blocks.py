"""Reads the blocks of a text file as parsed blocks, and counts their lines without parsing them."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
from numpy.typing import NDArray

from ml.catalog.reading import Source
from ml.logs.parsed_blocks import ParsedBlock
from ml.logs.quarantine import TEXT_BYTES, TOO_LONG, damaged_file
from ml.logs.sources import LogFile
from ml.logs.streams import Block, blocks
from ml.logs.text.content_type import check_is_text
from ml.logs.text.joined_rows import LINE_END, split_rows
from ml.logs.text.json_keys import absent_columns
from ml.logs.text.layout import BOM, Layout
from ml.logs.text.parse import parse_block
from ml.logs.text.row_lines import RowLines


def read_text_blocks(source: Source, file: LogFile, first: int, wanted: Collection[int] | None) -> Iterator[ParsedBlock]:
    """Parses the `wanted` blocks of a file (all if None) from block `first`. See `ml.logs.formats.read_blocks`."""
    for layout, block, header_lines, data in _blocks(source, file, first, wanted):
        yield _parse(layout, block, header_lines, data)


def count_text_lines(
    source: Source, file: LogFile, first: int, wanted: Collection[int] | None
) -> Iterator[tuple[int, int, int]]:
    """Index, lines and header lines of each block that `read_text_blocks` would yield."""
    for _, block, header_lines, data in _blocks(source, file, first, wanted):
        ends = (b"\n", LINE_END) if source.multiline else (b"\n",)  # an open quote takes the last line end
        lines = sum(data.count(end) for end in ends) + (not data.endswith(ends) and bool(data))
        yield block.index, header_lines + lines + len(_lost_ends(block)), header_lines


def _blocks(
    source: Source, file: LogFile, first: int, wanted: Collection[int] | None
) -> Iterator[tuple[Layout, Block, int, bytes]]:
    """Blocks with the file's layout, the number of header lines, and the data behind the header."""
    has_header = source.header and source.format != "jsonl"
    layout = None if has_header else Layout.declared(source)
    last = None if wanted is None else max(wanted, default=-1)
    if has_header and first > 0:
        layout = _layout_from_start(source, file)
    # A file that cannot be split is unpacked from its beginning in any case, and then block 0 brings the header.
    for block in blocks(file, first if file.splittable else 0, last):
        data, header = block.data, b""
        if block.index == 0:
            check_is_text(data, file.name)
            data = data.removeprefix(BOM)
            if has_header and data:
                end = data.find(b"\n") + 1 or len(data)
                header, data = data[:end], data[end:]
                layout = Layout.from_header(source, split_rows(header) if source.multiline else header, file.name)
        if block.index >= first and (wanted is None or block.index in wanted):
            yield layout or Layout.declared(source), block, bool(header) + source.multiline * header.count(LINE_END), data


def _layout_from_start(source: Source, file: LogFile) -> Layout | None:
    if not file.splittable:
        return None
    start = next(iter(blocks(file, 0, 0)), None)
    line = start.data.removeprefix(BOM).split(b"\n", 1)[0] if start else b""
    return Layout.from_header(source, line, file.name)


def _parse(layout: Layout, block: Block, header_lines: int, data: bytes) -> ParsedBlock:
    parsed = parse_block(layout, data)
    rows = RowLines.of(parsed, joined=layout.source.multiline)
    num_lines = header_lines + rows.num_lines
    lost = {num_lines + n: end for n, end in enumerate(_lost_ends(block))}
    bad = {header_lines + line: reason for line, reason in rows.bad.items()} | {line: why for line, (why, _) in lost.items()}

    def text_of(line: int) -> bytes:
        return (lost[line][1] if line in lost else rows.text(line - header_lines))[:TEXT_BYTES]

    def content_of(which: slice | NDArray[np.bool_]) -> bytes | memoryview:
        if isinstance(which, slice) and not lost and not layout.source.multiline:
            return parsed.lines.between(which.start - header_lines, which.stop - header_lines)
        mask = np.zeros(num_lines + len(lost), bool)
        mask[which] = True
        return rows.take(mask[header_lines:num_lines]) + b"\n".join(end for n, (_, end) in lost.items() if mask[n])

    return ParsedBlock(
        index=block.index,
        num_lines=num_lines + len(lost),
        header_lines=header_lines,
        table=parsed.table,
        row_lines=rows.starts[parsed.row_lines] + header_lines if layout.source.multiline else parsed.row_lines + header_lines,
        bad_lines=np.fromiter(bad, np.int64, len(bad)),
        reasons=list(bad.values()),
        text_of=text_of,
        content_of=content_of,
        absent=absent_columns(layout, parsed.table, parsed.lines) if layout.source.format == "jsonl" else frozenset(),
    )


def _lost_ends(block: Block) -> list[tuple[str, bytes]]:
    """Reason and text of the ends of a block that its data lacks; each counts as one bad line."""
    ends = [(TOO_LONG, block.too_long)] if block.too_long is not None else []
    return ends + ([(damaged_file(block.damage), block.torn)] if block.damage is not None else [])
