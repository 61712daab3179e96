"""Reads the blocks of a file in any format. All code that reads log files uses this module."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from ml.catalog.reading import Source, Time
from ml.catalog.row_shape import in_file
from ml.logs.parquet import read_row_groups
from ml.logs.parsed_blocks import ParsedBlock
from ml.logs.row_shape import is_shaped, shape_block
from ml.logs.sources import LogFile
from ml.logs.text.blocks import count_text_lines, read_text_blocks


def read_blocks(
    source: Source, file: LogFile, first: int = 0, wanted: Collection[int] | None = None, clock: Time | None = None
) -> Iterator[ParsedBlock]:
    """Parses a file block by block; for Parquet, row group by row group.

    Args:
        source: The file's columns and format.
        file: The file.
        first: The first block to read.
        wanted: The blocks to read; None reads every block from `first`.
        clock: How event times are read, for a log: Parquet's timestamps are converted to its unit.

    Yields:
        Blocks in file order. The lost rest of a truncated or corrupt file is one bad line of the last block.

    Raises:
        WrongFile: The file lacks a column of the source, or cannot hold what the catalog declares.
    """
    fields = in_file(source)
    if source.format == "parquet":
        blocks = read_row_groups(fields, file, wanted, clock)
    else:
        blocks = read_text_blocks(fields, file, first, wanted)
    return (shape_block(source, block, file.name) for block in blocks) if is_shaped(source) else blocks


def count_lines(
    source: Source, file: LogFile, first: int = 0, wanted: Collection[int] | None = None
) -> Iterator[tuple[int, int, int]]:
    """Yields index, `num_lines` and `header_lines` of each block of `read_blocks`. Text is counted, not parsed."""
    if source.format == "parquet":  # the footer does not say which row groups are damaged
        return ((block.index, block.num_lines, block.header_lines) for block in read_blocks(source, file, first, wanted))
    return count_text_lines(in_file(source), file, first, wanted)
