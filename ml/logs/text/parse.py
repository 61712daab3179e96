"""A block of lines in, typed rows and quarantined lines out. The verdict on a line never depends on its neighbours.

The whole block goes to Arrow's reader first; only a block that it can not read as exactly one row a line is searched for
the lines at fault, and read again without them. What a typed row means (its time, its label) is `ml.logs.validate_rows`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ml.logs.quarantine import BLANK, NOT_UTF8, STRAY_CR
from ml.logs.text.layout import Layout
from ml.logs.text.lines import Lines


class Reader(Protocol):
    """One format of lines, given lines that are plain (`Lines.are_plain`).

    refused: the reason for a line that it does not read, where no better one is known.
    """

    refused: str

    def read(self, lines: Lines) -> pa.Table | None:
        """A typed row for each line, or None where any line is not exactly one good row."""
        ...

    def misshapen(self, lines: Lines) -> dict[int, str]:
        """Line -> reason, of lines that are cut up wrongly."""
        ...

    def misvalued(self, lines: Lines) -> dict[int, str]:
        """Line -> reason, of lines that are not misshapen but hold what is no value of its column's type.

        Both may miss some; neither may blame a line that `read` alone would take.
        """
        ...


@dataclass(frozen=True)
class Parsed:
    """N rows and Q quarantined lines of one block of N + Q lines, numbered from 0 within it.

    table: the source's columns, [N]. lines: int64 [N], ascending. bad: line -> reason, Q entries.
    """

    table: pa.Table
    lines: NDArray[np.int64]
    bad: dict[int, str]
    text: Lines

    @property
    def line_count(self) -> int:
        return len(self.lines) + len(self.bad)


def reader_for(layout: Layout) -> Reader:
    """The reader of a layout's format (csv, tsv, jsonl)."""
    from ml.logs.text.delimited import DelimitedReader
    from ml.logs.text.jsonlines import JsonReader

    return JsonReader(layout) if layout.source.format == "jsonl" else DelimitedReader(layout)


def parse_block(layout: Layout, data: bytes) -> Parsed:
    """Parse whole lines (the last may lack its line feed; a header must be gone)."""
    if layout.source.encoding == "latin-1":
        data = data.decode("latin-1").encode()
    lines = Lines(data if data.endswith(b"\n") or not data else data + b"\n")
    schema = layout.schema
    if not data:
        return Parsed(schema.empty_table(), np.zeros(0, np.int64), {}, lines)
    reader = reader_for(layout)
    if lines.are_plain() and (table := reader.read(lines)) is not None:
        return Parsed(table, np.arange(len(lines)), {}, lines)
    bad = _misshapen(reader, lines)
    left, tables = _without(np.arange(len(lines)), bad), [schema.empty_table()]
    # Where no line is misshapen, `read` has just refused these very lines.
    if bad and len(left) and (table := reader.read(_take(lines, left))) is not None:
        tables.append(table)
    elif len(left):
        bad |= {int(left[line]): reason for line, reason in reader.misvalued(_take(lines, left)).items()}
        _read_halves(reader, lines, _without(left, bad), tables, bad)
    return Parsed(
        pa.concat_tables(tables).combine_chunks(), _without(np.arange(len(lines)), bad), dict(sorted(bad.items())), lines
    )


def _misshapen(reader: Reader, lines: Lines) -> dict[int, str]:
    bad: dict[int, str] = {}
    for reason, found in ((NOT_UTF8, lines.not_utf8()), (BLANK, lines.blank()), (STRAY_CR, lines.with_stray_cr())):
        bad |= {line: reason for line in np.flatnonzero(found).tolist() if line not in bad}
    numbers = _without(np.arange(len(lines)), bad)
    found = reader.misshapen(_take(lines, numbers)) if len(numbers) else {}
    return bad | {int(numbers[line]): reason for line, reason in found.items()}


def _read_halves(reader: Reader, lines: Lines, numbers: NDArray[np.int64], tables: list[pa.Table], bad: dict[int, str]) -> None:
    """Read what is left; whatever is still refused is closed in on by halves."""
    if not len(numbers):
        return
    if (table := reader.read(_take(lines, numbers))) is not None:
        tables.append(table)
    elif len(numbers) == 1:
        bad[int(numbers[0])] = reader.refused
    else:
        for half in np.array_split(numbers, 2):
            _read_halves(reader, lines, half, tables, bad)


def _take(lines: Lines, numbers: NDArray[np.int64]) -> Lines:
    mask = np.zeros(len(lines), bool)
    mask[numbers] = True
    return Lines(lines.take(mask))


def _without(numbers: NDArray[np.int64], bad: dict[int, str]) -> NDArray[np.int64]:
    return numbers[~np.isin(numbers, np.fromiter(bad, np.int64, len(bad)))] if bad else numbers
