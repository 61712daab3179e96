"""Reads JSON lines into typed columns with Arrow's reader, and finds the lines that it refuses and why."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json as pa_json

from ml.catalog.reading import ColumnType
from ml.catalog.row_shape import element_type
from ml.logs.quarantine import BAD_JSON, bad_value
from ml.logs.text.layout import BOM, Layout
from ml.logs.text.lines import Lines
from ml.logs.text.value_types import all_finite, table_without_null_tokens

CHUNK = 128


class JsonReader:
    """Reads one JSON object per line. Keys that are not columns are ignored; columns without a key are null."""

    refused = BAD_JSON

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.names = layout.original_names
        self.schema = pa.schema([(self.names[field.name], field.type) for field in layout.schema])

    def read(self, lines: Lines) -> pa.Table | None:
        # With a brace at both ends of every line no object can span two; then as many rows as lines means one row each.
        # The check also protects Arrow's reader, which crashes on a bare `null`.
        if not _braced(lines):
            return None
        try:
            table = pa_json.read_json(
                pa.BufferReader(lines.data),
                pa_json.ReadOptions(use_threads=False, block_size=len(lines.data) + 1),
                pa_json.ParseOptions(explicit_schema=self.schema, unexpected_field_behavior="ignore"),
            )
        except pa.ArrowInvalid:
            return None
        if table.num_rows != len(lines) or not all_finite(table):
            return None
        table = table.select(self.schema.names).rename_columns(self.layout.schema.names)
        return table_without_null_tokens(table, self.layout.source.null_tokens)

    def malformed(self, lines: Lines) -> dict[int, str]:
        return {}  # `invalid` finds bad structure and bad values together

    def invalid(self, lines: Lines) -> dict[int, str]:
        found: dict[int, str] = {}
        for begin in range(0, len(lines), CHUNK):
            numbers = range(begin, min(begin + CHUNK, len(lines)))
            piece = lines.data[lines.starts[numbers[0]] : lines.ends[numbers[-1]] + 1]
            if self.read(Lines(piece)) is not None:
                continue
            for line in numbers:
                reason = self._fault(lines.text(line))
                # Arrow decides, as it does in a block without bad lines.
                if reason is not None and self.read(Lines(lines.text(line) + b"\n")) is None:
                    found[line] = reason
        return found

    def _fault(self, text: bytes) -> str | None:
        if not text.strip(b" \t").startswith(b"{"):
            return BAD_JSON
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return BAD_JSON
        for column, kind in self.layout.source.columns.items():
            if not _fits(value.get(self.names[column]), kind):
                return bad_value(kind, column)
        return None


def _braced(lines: Lines) -> bool:
    data = lines.bytes
    first, last = data[lines.starts], data[np.maximum(lines.text_ends - 1, 0)]
    odd = np.flatnonzero((first != ord("{")) | (last != ord("}")) | (lines.text_ends == lines.starts))
    if len(odd) > CHUNK and not _brace(lines.text(int(odd[0]))):
        return False
    return not lines.data.startswith(BOM) and all(_brace(lines.text(line)) for line in odd.tolist())


def _brace(text: bytes) -> bool:
    text = text.strip(b" \t\r")
    return text.startswith(b"{") and text.endswith(b"}")


def _fits(value: Any, kind: ColumnType) -> bool:
    if value is None:
        return True
    if (inner := element_type(kind)) is not None:
        return isinstance(value, list) and all(_fits(one, inner) for one in value)
    if kind in ("int", "float") and (isinstance(value, bool) or not isinstance(value, int | float)):
        return False
    if kind == "int":
        return isinstance(value, int) and -(2**63) <= value < 2**63
    if kind == "float":
        return abs(value) <= sys.float_info.max
    return isinstance(value, bool if kind == "bool" else str)
