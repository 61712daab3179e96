"""Parses a block of lines into typed rows and quarantined lines. The result for a line never depends on its neighbours.

The whole block goes to Arrow's reader first. Only if the reader does not return exactly one row per line is the block
searched for the bad lines and read again without them. `ml.logs.validate_rows` validates the time and label of a typed row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ml.logs.quarantine import BLANK, NOT_UTF8, STRAY_CR
from ml.logs.text.delimited import DelimitedReader
from ml.logs.text.jsonlines import JsonReader
from ml.logs.text.layout import Layout
from ml.logs.text.lines import Lines


class Reader(Protocol):
    """Reads one format, from lines that are plain (`Lines.are_plain`).

    Attributes:
        refused: The reason for a line that the reader refuses, if no more specific one is known.
    """

    refused: str

    def read(self, lines: Lines) -> pa.Table | None:
        """A typed row for each line, or None if any line is not exactly one good row."""
        ...

    def malformed(self, lines: Lines) -> dict[int, str]:
        """Line -> reason, of lines with a wrong structure. May miss some, but never names a line that `read` alone accepts."""
        ...

    def invalid(self, lines: Lines) -> dict[int, str]:
        """Line -> reason, of well-formed lines with a value of the wrong type. May miss some, like `malformed`."""
        ...


@dataclass(frozen=True)
class ParsedLines:
    """N rows and Q quarantined lines of a block of N + Q lines, which are numbered from 0.

    Attributes:
        table: The source's columns, [N].
        row_lines: Line of each row, int64 [N], ascending.
        bad: Line -> reason, Q entries.
        lines: The lines themselves.
    """

    table: pa.Table
    row_lines: NDArray[np.int64]
    bad: dict[int, str]
    lines: Lines

    @property
    def num_lines(self) -> int:
        return len(self.row_lines) + len(self.bad)


def reader_for(layout: Layout) -> Reader:
    """The reader of a layout's format (csv, tsv or jsonl)."""
    return JsonReader(layout) if layout.source.format == "jsonl" else DelimitedReader(layout)


def parse_block(layout: Layout, data: bytes) -> ParsedLines:
    """Parses whole lines.

    Args:
        layout: Fields of the file.
        data: Lines without a header; the last line may lack its line feed.

    Returns:
        Typed rows and quarantined lines. Each line is one or the other.
    """
    if layout.source.encoding == "latin-1":
        data = data.decode("latin-1").encode()
    lines = Lines(data if data.endswith(b"\n") or not data else data + b"\n")
    schema = layout.schema
    if not data:
        return ParsedLines(schema.empty_table(), np.zeros(0, np.int64), {}, lines)
    reader = reader_for(layout)
    if lines.are_plain() and (table := reader.read(lines)) is not None:
        return ParsedLines(table, np.arange(len(lines)), {}, lines)
    bad = _malformed(reader, lines)
    left, tables = _without(np.arange(len(lines)), bad), [schema.empty_table()]
    # If no line is malformed, `read` has just refused these very lines.
    if bad and len(left) and (table := reader.read(_take(lines, left))) is not None:
        tables.append(table)
    elif len(left):
        bad |= {int(left[line]): reason for line, reason in reader.invalid(_take(lines, left)).items()}
        _bisect(reader, lines, _without(left, bad), tables, bad)
    table, row_lines = pa.concat_tables(tables).combine_chunks(), _without(np.arange(len(lines)), bad)
    return ParsedLines(table, row_lines, dict(sorted(bad.items())), lines)


def _malformed(reader: Reader, lines: Lines) -> dict[int, str]:
    bad: dict[int, str] = {}
    for reason, found in ((NOT_UTF8, lines.not_utf8()), (BLANK, lines.blank()), (STRAY_CR, lines.with_stray_cr())):
        bad |= {line: reason for line in np.flatnonzero(found).tolist() if line not in bad}
    numbers = _without(np.arange(len(lines)), bad)
    found = reader.malformed(_take(lines, numbers)) if len(numbers) else {}
    return bad | {int(numbers[line]): reason for line, reason in found.items()}


def _bisect(reader: Reader, lines: Lines, numbers: NDArray[np.int64], tables: list[pa.Table], bad: dict[int, str]) -> None:
    """Reads the remaining lines, and narrows down by halves those that are still refused."""
    if not len(numbers):
        return
    if (table := reader.read(_take(lines, numbers))) is not None:
        tables.append(table)
    elif len(numbers) == 1:
        bad[int(numbers[0])] = reader.refused
    else:
        for half in np.array_split(numbers, 2):
            _bisect(reader, lines, half, tables, bad)


def _take(lines: Lines, numbers: NDArray[np.int64]) -> Lines:
    mask = np.zeros(len(lines), bool)
    mask[numbers] = True
    return Lines(lines.take(mask))


def _without(numbers: NDArray[np.int64], bad: dict[int, str]) -> NDArray[np.int64]:
    return numbers[~np.isin(numbers, np.fromiter(bad, np.int64, len(bad)))] if bad else numbers
