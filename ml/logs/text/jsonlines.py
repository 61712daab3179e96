"""Reads JSON lines into typed columns with Arrow's reader, and finds the lines that it refuses and why."""

from __future__ import annotations

import json
import math
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json as pa_json

from ml.catalog.reading import ColumnType
from ml.catalog.value_paths import EACH, KeyPath, object_lists
from ml.catalog.value_text import element_type
from ml.logs.quarantine import BAD_JSON, bad_element, bad_value
from ml.logs.text.json_keys import NO_OBJECT, value_at
from ml.logs.text.json_numbers import numbers_as_texts
from ml.logs.text.layout import BOM, Layout
from ml.logs.text.lines import Lines
from ml.logs.text.value_types import all_finite, column_at, table_without_null_tokens

CHUNK = 128
_NUMBER_FOR_TEXT = "from string to number"  # in Arrow's message


class JsonReader:
    """Reads one JSON object per line. Keys that are not columns are ignored; columns without a key are null."""

    refused = BAD_JSON

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.paths = layout.key_paths
        self.schema = _nested_schema({self.paths[field.name]: field.type for field in layout.schema})
        texts = [self.paths[name][-1] for name, kind in layout.source.columns.items() if kind in ("string", "list<string>")]
        self.texts = [key for key in dict.fromkeys(texts) if key is not EACH]
        self.lists = {column: name for name, columns in object_lists(layout.source).items() for column in columns}

    def read(self, lines: Lines) -> pa.Table | None:
        # With a brace at both ends of every line no object can span two; then as many rows as lines means one row each.
        # The check also protects Arrow's reader, which crashes on a bare `null`.
        if not _braced(lines):
            return None
        try:
            table = self._arrow(lines.data)
        except pa.ArrowInvalid as error:
            if _NUMBER_FOR_TEXT not in str(error):
                return None
            try:
                table = self._arrow(numbers_as_texts(lines.data, self.texts))
            except pa.ArrowInvalid:
                return None
        table = pa.table([column_at(table, path) for path in self.paths.values()], schema=self.layout.schema)
        if table.num_rows != len(lines) or not all_finite(table):
            return None
        return table_without_null_tokens(table, self.layout.source.null_tokens)

    def _arrow(self, data: bytes) -> pa.Table:
        return pa_json.read_json(
            pa.BufferReader(data),
            pa_json.ReadOptions(use_threads=False, block_size=len(data) + 1),
            pa_json.ParseOptions(explicit_schema=self.schema, unexpected_field_behavior="ignore"),
        )

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
            found = value_at(value, self.paths[column])
            if column in self.lists and found is NO_OBJECT:
                return bad_value("list", self.lists[column])
            if column in self.lists and found is not None and NO_OBJECT in found:
                return bad_element(self.lists[column])
            if not _fits(found, kind):
                return bad_value(kind, column)
        return None


def _nested_schema(types: dict[KeyPath, pa.DataType]) -> pa.Schema:
    """The schema whose fields, at the end of each path, have these types; beyond `EACH`, lists of them."""
    below: dict[str, dict[KeyPath, pa.DataType]] = {}
    for (first, *rest), kind in types.items():
        assert first is not EACH
        below.setdefault(first, {})[tuple(rest)] = kind
    return pa.schema([(name, _nested_type(of)) for name, of in below.items()])


def _nested_type(types: dict[KeyPath, pa.DataType]) -> pa.DataType:
    if () in types:
        return types[()]
    if all(path[0] is EACH for path in types):
        return pa.list_(_nested_type({path[1:]: kind.value_type for path, kind in types.items()}))
    return pa.struct(list(_nested_schema(types)))


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
    if value is NO_OBJECT:
        return False
    if (inner := element_type(kind)) is not None:
        return isinstance(value, list) and all(_fits(one, inner) for one in value)
    if kind in ("int", "float") and (isinstance(value, bool) or not isinstance(value, int | float)):
        return False
    if kind == "int":
        return isinstance(value, int) and -(2**63) <= value < 2**63
    if kind == "float":
        return abs(value) <= sys.float_info.max
    if kind == "string" and isinstance(value, int | float) and not isinstance(value, bool):
        return isinstance(value, int) or abs(value) < 2**53 or (math.isfinite(value) and not value.is_integer())
    return isinstance(value, bool if kind == "bool" else str)
