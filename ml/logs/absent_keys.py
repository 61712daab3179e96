"""Refuses a JSON log if no line has a key that the catalog declares: the declared name is wrong.

A key may be absent from all lines of a day, if it is optional. It is refused if no other part of the log has it either, as far
as that is known without reading the log for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce

from upath import UPath

from ml.catalog.log_spec import LogSpec
from ml.catalog.reading import Source
from ml.catalog.row_shape import in_file
from ml.catalog.value_paths import dotted
from ml.logs.index import LogIndex
from ml.logs.sources import LogFile, find_files
from ml.logs.streams import blocks
from ml.logs.text.json_keys import keys_in, without_found
from ml.logs.text.layout import BOM, Layout, WrongFile
from ml.logs.text.lines import Lines

FILES = 8  # other files whose first block is searched for an absent key


def absent_everywhere(absent: Iterable[Iterable[str] | None]) -> frozenset[str]:
    """Returns the columns that are absent from every block with rows; none if no block has rows."""
    known = [frozenset(columns) for columns in absent if columns is not None]
    return reduce(frozenset.intersection, known) if known else frozenset()


def check_keys(log: LogSpec, index: LogIndex, folder: str | UPath, files: Sequence[LogFile], absent: frozenset[str]) -> None:
    """Checks that the keys of columns are somewhere in the log.

    Args:
        log: The log.
        index: Knows which keys are absent from the blocks of undated files.
        folder: The landing folder.
        files: The files of the day.
        absent: Columns whose key no line of these files' blocks has.

    Raises:
        WrongFile: A key is absent from all blocks of the index, or from all files that were searched.
    """
    indexed = [block.absent for of_file in index.files for block in of_file.blocks or ()] if not log.time.by_position else []
    if indexed and not log.source.dated:
        absent &= absent_everywhere(indexed)
    else:
        others = [file for file in find_files(log.source, folder) if file not in files]
        for file in others[:: max(len(others) // FILES, 1)]:
            absent = absent and without_found(Layout.declared(in_file(log.source)), absent, first_lines(log.source, file))
    if absent:
        raise lacking_keys(log.source, files[0], absent)


def lacking_keys(source: Source, file: LogFile, absent: Iterable[str]) -> WrongFile:
    """The error for keys that no line has. It lists the keys of the file's first lines."""
    paths = Layout.declared(in_file(source)).key_paths
    keys = ", ".join(repr(dotted(path)) for column, path in paths.items() if column in set(absent))
    there = ", ".join(map(repr, keys_in(first_lines(source, file))[:40]))
    return WrongFile(
        f"{file.name}: no line has the key {keys}; the lines have {there}. "
        f"Correct source.columns, source.rename or source.paths in the catalog"
    )


def first_lines(source: Source, file: LogFile) -> Lines:
    """The lines of a file's first block."""
    data = next((block.data for block in blocks(file, 0, 0)), b"").removeprefix(BOM)
    data = data.decode("latin-1").encode() if source.encoding == "latin-1" else data
    return Lines(data if data.endswith(b"\n") or not data else data + b"\n")
