"""Reads CSV and TSV lines into typed columns with Arrow's reader, and finds the lines that it refuses and why."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
from numpy.typing import NDArray

from ml.catalog.reading import ColumnType
from ml.logs.quarantine import CONTROL, FIELDS, UNBALANCED, UNREADABLE, bad_value
from ml.logs.text.joined_rows import LINE_END, RETURN, TAKEN, with_line_ends
from ml.logs.text.layout import BOM, Layout
from ml.logs.text.lines import LF, Lines
from ml.logs.text.value_types import all_finite, bad_values
from ml.schema import ARROW_TYPES

QUOTE = 0x22


class DelimitedReader:
    """Reads one row per line. Quoted fields can hold separators and doubled quotes, and line ends only if they are replaced."""

    refused = UNREADABLE

    def __init__(self, layout: Layout) -> None:
        self.source, self.fields = layout.source, layout.fields
        self.separator = ord(self.source.delimiter)

    def read(self, lines: Lines) -> pa.Table | None:
        if self._has_taken(lines):
            return None
        table = self._arrow(lines.data, dict(self.source.columns))
        if table is None or table.num_rows != len(lines) or not all_finite(table):
            return None
        return with_line_ends(table) if self.source.multiline and (LINE_END in lines.data or RETURN in lines.data) else table

    def _arrow(self, data: bytes, kinds: dict[str, ColumnType]) -> pa.Table | None:
        # Arrow drops one byte order mark, which here would belong to the first field. A blank line at the end becomes a row
        # of nulls, unless an open quote has swallowed it: so it guards the quotes of the last line.
        data = (BOM if data.startswith(BOM) else b"") + data + (b"\n" if self.source.quoted else b"")
        try:
            table = pa_csv.read_csv(
                pa.BufferReader(data),
                pa_csv.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=list(self.fields)),
                pa_csv.ParseOptions(
                    delimiter=self.source.delimiter,
                    quote_char='"' if self.source.quoted else False,
                    ignore_empty_lines=False,
                ),
                pa_csv.ConvertOptions(
                    column_types={name: ARROW_TYPES[kind] for name, kind in kinds.items()},
                    include_columns=list(kinds),
                    null_values=list(self.source.null_tokens),
                    strings_can_be_null=True,
                    check_utf8=False,  # checked before, also for fields that are not columns
                ),
            )
        except pa.ArrowInvalid:
            return None
        return table.slice(0, table.num_rows - 1) if self.source.quoted else table

    def malformed(self, lines: Lines) -> dict[int, str]:
        found, doubtful = self._wrong_field_counts(lines)
        for line in np.flatnonzero(doubtful).tolist():
            if self._as_one_row(lines.text(line)) is None:
                found[line] = UNBALANCED if lines.text(line).count(b'"') % 2 else FIELDS
        if self._has_taken(lines):
            taken = np.unique(lines.line_at(np.flatnonzero(lines.bytes == TAKEN[0])))
            found |= {line: CONTROL for line in taken.tolist() if line not in found}
        return found

    def _has_taken(self, lines: Lines) -> bool:
        return self.source.multiline and TAKEN in lines.data

    def invalid(self, lines: Lines) -> dict[int, str]:
        texts = self._arrow(lines.data, dict.fromkeys(self.source.columns, "string"))
        found: dict[int, str] = {}
        if texts is None or texts.num_rows != len(lines):
            return found
        for column, kind in self.source.columns.items():
            wrong = np.flatnonzero(bad_values(texts.column(column).combine_chunks(), kind))
            found |= {line: bad_value(kind, column) for line in wrong.tolist() if line not in found}
        return found

    def _as_one_row(self, text: bytes) -> pa.Table | None:
        table = self._arrow(text + b"\n", dict.fromkeys(self.source.columns, "string"))
        return table if table is not None and table.num_rows == 1 else None

    def _wrong_field_counts(self, lines: Lines) -> tuple[dict[int, str], NDArray[np.bool_]]:
        """Lines with a wrong number of fields, and lines whose quotes leave that in doubt (bool [N]).

        Quotes are certain if they pair up and each opening one begins a field or follows a doubled quote. Then the
        separators at even depth are those between fields.
        """
        data = lines.bytes
        separators = np.flatnonzero(data == self.separator)
        doubtful = np.zeros(len(lines), bool)
        if self.source.quoted:
            quotes = np.flatnonzero(data == QUOTE)
            line = lines.line_at(quotes)
            count = np.bincount(line, minlength=len(lines))
            doubtful |= count % 2 == 1
            place = np.arange(len(quotes)) - np.searchsorted(line, line, side="left")  # of each quote within its line
            opening = quotes[place % 2 == 0]
            before = data[np.maximum(opening - 1, 0)]
            at_begin = (opening == 0) | np.isin(before, [self.separator, LF, QUOTE])
            doubtful[lines.line_at(opening[~at_begin])] = True
            depth = np.searchsorted(quotes, separators) - np.searchsorted(quotes, lines.starts[lines.line_at(separators)])
            separators = separators[depth % 2 == 0]
        fields = np.diff(np.searchsorted(separators, lines.ends), prepend=0) + 1
        wrong = (fields != len(self.fields)) & ~doubtful
        return dict.fromkeys(np.flatnonzero(wrong).tolist(), FIELDS), doubtful
