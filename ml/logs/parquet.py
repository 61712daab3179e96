"""Reads Parquet files as parsed blocks: row groups count as blocks, rows as lines."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute creates its functions at import, so type checkers do not see them)

from __future__ import annotations

import json
from collections.abc import Collection, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from upath import UPath

from ml.catalog.reading import ColumnType, Source
from ml.logs.parsed_blocks import ParsedBlock
from ml.logs.quarantine import NOT_UTF8, TEXT_BYTES, bad_value, damaged_file
from ml.logs.sources import LogFile
from ml.logs.text.layout import Layout, rename_fields
from ml.logs.text.value_types import null_tokens
from ml.schema import ARROW_TYPES


def read_row_groups(source: Source, file: LogFile, wanted: Collection[int] | None) -> Iterator[ParsedBlock]:
    """Reads the `wanted` row groups of a file (all if None). Rows that do not fit the types are bad lines.

    Raises:
        WrongFile: The file lacks a column of the source.
    """
    schema = Layout.declared(source).schema
    with UPath(file.url).open("rb") as raw:
        index = 0
        try:
            parquet = pq.ParquetFile(raw)
            rename_fields(source, parquet.schema_arrow.names, file.name, "schema")
            for index in range(parquet.num_row_groups):
                if wanted is None or index in wanted:
                    yield _parse(source, schema, index, parquet.read_row_group(index, use_threads=False))
            return
        except (pa.ArrowInvalid, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk or the network failed, not the file
            reason = damaged_file(str(error).splitlines()[0])
    yield ParsedBlock(index, 1, 0, schema.empty_table(), np.zeros(0, np.int64), np.zeros(1, np.int64), [reason], lambda _: b"")


def _parse(source: Source, schema: pa.Schema, index: int, group: pa.Table) -> ParsedBlock:
    group = group.rename_columns([source.rename.get(name, name) for name in group.column_names]).select(schema.names)
    bad: dict[int, str] = {}
    columns: list[pa.ChunkedArray] = []
    for column, kind in source.columns.items():
        values, wrong = _typed(group.column(column), kind)
        columns.append(values)
        reason = NOT_UTF8 if kind == "string" else bad_value(kind, column)
        bad |= {row: reason for row in np.flatnonzero(wrong).tolist() if row not in bad}
    good = np.ones(group.num_rows, bool)
    good[list(bad)] = False
    bad = dict(sorted(bad.items()))
    table = null_tokens(pa.table(columns, schema=schema), source.null_tokens)

    def text_of(row: int) -> bytes:
        return json.dumps(group.slice(row, 1).to_pylist()[0], default=repr).encode()[:TEXT_BYTES]

    return ParsedBlock(
        index=index,
        num_lines=group.num_rows,
        header_lines=0,
        table=table if good.all() else table.filter(pa.array(good)),
        row_lines=np.flatnonzero(good),
        bad_lines=np.fromiter(bad, np.int64, len(bad)),
        reasons=list(bad.values()),
        text_of=text_of,
    )


def _typed(values: pa.ChunkedArray, kind: ColumnType) -> tuple[pa.ChunkedArray, NDArray[np.bool_]]:
    """A column [N] in its declared type, null where a value does not fit it, and a mask of those rows, bool [N]."""
    target = ARROW_TYPES[kind]
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if pa.types.is_timestamp(values.type) and kind == "int":
        values = values.cast(pa.int64())
    try:
        typed, wrong = values.cast(target), np.zeros(len(values), bool)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        fits = [_cast_one(value, target) for value in values]
        typed = pa.chunked_array([pa.array([value.as_py() if value is not None else None for value in fits], target)])
        wrong = np.array([value is None for value in fits], bool)
    if kind == "float":
        infinite = pc.fill_null(pc.invert(pc.is_finite(typed)), False).to_numpy()
        wrong |= infinite
    return typed, wrong


def _cast_one(value: pa.Scalar, target: pa.DataType) -> pa.Scalar | None:
    try:
        return value.cast(target)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None
