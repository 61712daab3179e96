"""Reads all files of a source into one table, for tables small enough to hold in memory, such as side tables."""

from __future__ import annotations

import pyarrow as pa
from upath import UPath

from ml.catalog.reading import Source
from ml.logs.absent_keys import absent_everywhere, lacking_keys
from ml.logs.formats import read_blocks
from ml.logs.quarantine import Quarantine
from ml.logs.sources import find_files
from ml.logs.text.layout import Layout


def read_table(source: Source, folder: str | UPath) -> tuple[pa.Table, Quarantine]:
    """Reads all rows of a source.

    Args:
        source: Files and columns.
        folder: The landing folder.

    Returns:
        The rows [N] in file and line order, and the lines that could not be read.

    Raises:
        NoLogs: No file matches.
        WrongFile: A file lacks a column, or no line has the JSON key of a column.
    """
    tables, bad = [Layout.declared(source).schema.empty_table()], []
    absent: list[frozenset[str] | None] = []
    files = find_files(source, folder)
    for file in files:
        first_line = 1
        for block in read_blocks(source, file):
            tables.append(block.table)
            absent.append(block.absent)
            lines = block.bad_lines.tolist()
            texts = [block.text_of(line) for line in lines]
            bad.append(Quarantine.of(file.name, [first_line + line for line in lines], block.reasons, texts))
            first_line += block.num_lines
    if missing := absent_everywhere(absent):
        raise lacking_keys(source, files[0], missing)
    return pa.concat_tables(tables).combine_chunks(), Quarantine.concat(bad)
