"""Reads Parquet files as parsed blocks: row groups count as blocks, rows as lines."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from upath import UPath

from ml.catalog.reading import ColumnType, Source, Time
from ml.catalog.value_paths import Each, KeyPath, dotted, key_paths
from ml.logs.parsed_blocks import ParsedBlock
from ml.logs.quarantine import NOT_UTF8, TEXT_BYTES, bad_value, damaged_file, inexact_integer
from ml.logs.sources import LogFile
from ml.logs.text.layout import Layout, WrongFile, rename_fields
from ml.logs.text.value_types import column_at, table_without_null_tokens
from ml.logs.typed_columns import TypedColumn, UnreadableType, ValueRules, is_list, type_column

_IN_LIST = "make rows of the objects of a list with source.explode, such as `{items: [item]}` for the path `items.id`"
_NO_LIST = "correct source.explode, which makes rows of the objects of a list"


def read_row_groups(
    source: Source, file: LogFile, wanted: Collection[int] | None, clock: Time | None = None
) -> Iterator[ParsedBlock]:
    """Reads the `wanted` row groups of a file (all if None). Rows that do not fit the types are bad lines.

    Args:
        source: The file's columns.
        file: The file.
        wanted: Numbers of row groups.
        clock: The column of event times, in whose unit its timestamps are read. Other timestamps are read as microseconds.

    Raises:
        WrongFile: The file lacks a column of the source, or has one of a type that cannot be read as declared.
    """
    schema = Layout.declared(source).schema
    with UPath(file.url).open("rb") as raw:
        index = 0
        try:
            parquet = pq.ParquetFile(raw)
            names = column_names(source, flat_schema(source, parquet.schema_arrow, file.name), file.name)
            for index in range(parquet.num_row_groups):
                if wanted is None or index in wanted:
                    group = _flat(source, parquet.read_row_group(index, use_threads=False)).rename_columns(names)
                    yield _parse(source, schema, index, group, clock)
            return
        except (pa.ArrowInvalid, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk or the network failed, not the file
            reason = damaged_file(str(error).splitlines()[0])
    yield ParsedBlock(
        index, 1, 0, schema.empty_table(), np.zeros(0, np.int64), np.zeros(1, np.int64), [reason], lambda _: b"", lambda _: b""
    )


def flat_schema(source: Source, schema: pa.Schema, file: str) -> pa.Schema:
    """Returns a file's schema with the columns of `source.paths` in the place of the structs that hold them.

    Raises:
        WrongFile: A struct lacks a field of a path.
    """
    for column, path in _nested_paths(source).items():
        held: pa.DataType = pa.struct(list(schema))
        for key in path:
            if isinstance(key, Each):
                if not is_list(held):
                    raise WrongFile(f"{file}: {dotted(path)!r} of column {column!r} is within {held}, not a list; {_NO_LIST}")
                held = held.value_type
                continue
            there = [field.name for field in held] if pa.types.is_struct(held) else []
            if key not in there:
                found = f"there are {', '.join(map(repr, there[:40]))}" if there else f"{key!r} would be within {held}"
                way_out = _IN_LIST if is_list(held) else "correct source.paths"
                raise WrongFile(f"{file}: schema lacks {dotted(path)!r} of column {column!r}, {found}; {way_out}")
            held = held.field(key).type
    return _flat(source, schema.empty_table()).schema


def _nested_paths(source: Source) -> dict[str, KeyPath]:
    """The paths of the columns that are within structs."""
    return {column: path for column, path in key_paths(source, source.columns).items() if column in (source.paths or ())}


def _flat(source: Source, table: pa.Table) -> pa.Table:
    paths = _nested_paths(source)
    found = {column: column_at(table, path) for column, path in paths.items()}
    replaced = {*(path[0] for path in paths.values()), *(name for name in paths if name not in source.rename)}
    table = table.drop_columns([name for name in table.column_names if name in replaced])
    for column, values in found.items():
        table = table.append_column(column, values)
    return table


def column_names(source: Source, schema: pa.Schema, file: str) -> list[str]:
    """Returns the catalog's names of the columns of a `flat_schema`. Refuses columns that cannot be read as declared."""
    names = rename_fields(source, schema.names, file, "schema")
    for name, held in zip(names, schema.types, strict=True):
        if name in source.columns:
            try:
                type_column(pa.chunked_array([], held), source.columns[name])
            except UnreadableType as error:
                raise WrongFile(f"{file}: column {name!r} {error}") from error
    return list(names)


def _parse(source: Source, schema: pa.Schema, index: int, group: pa.Table, clock: Time | None) -> ParsedBlock:
    group = group.select(schema.names)
    bad: dict[int, str] = {}
    columns: list[pa.Array] = []
    for column, kind in source.columns.items():
        unit = clock.unit if clock and column == clock.column and kind == "int" else "us"
        typed = type_column(group.column(column), kind, ValueRules.of(source, column), unit)
        columns.append(typed.values)
        bad |= {row: _reason(typed, row, column, kind) for row in np.flatnonzero(typed.wrong).tolist() if row not in bad}
    good = np.ones(group.num_rows, bool)
    good[list(bad)] = False
    bad = dict(sorted(bad.items()))
    table = table_without_null_tokens(pa.table(columns, schema=schema), source.null_tokens)

    def text_of(row: int) -> bytes:
        return json.dumps(group.slice(row, 1).to_pylist()[0], default=repr).encode()[:TEXT_BYTES]

    def content_of(which: slice | NDArray[np.bool_]) -> bytes:
        # `take` copies: bits of neighbouring rows and the values behind nulls do not remain.
        copied = group.take(pa.array(np.arange(group.num_rows)[which])).combine_chunks()
        return b"".join(batch.serialize().to_pybytes() for batch in copied.to_batches())

    return ParsedBlock(
        index=index,
        num_lines=group.num_rows,
        header_lines=0,
        table=table if good.all() else table.filter(pa.array(good)),
        row_lines=np.flatnonzero(good),
        bad_lines=np.fromiter(bad, np.int64, len(bad)),
        reasons=list(bad.values()),
        text_of=text_of,
        content_of=content_of,
    )


def _reason(typed: TypedColumn, row: int, column: str, kind: ColumnType) -> str:
    if typed.not_utf8[row]:
        return NOT_UTF8
    return inexact_integer(column) if typed.inexact[row] else bad_value(kind, column)


def read_first_rows(source: Source, file: LogFile, index: int, rows: int, clock: Time | None = None) -> ParsedBlock:
    """Reads the first `rows` rows of the row group `index`. The other arguments and the errors are as for `read_row_groups`."""
    schema = Layout.declared(source).schema
    with UPath(file.url).open("rb") as raw:
        parquet = pq.ParquetFile(raw)
        flat = flat_schema(source, parquet.schema_arrow, file.name)
        names = column_names(source, flat, file.name)
        wanted = {old: new for old, new in zip(flat.names, names, strict=True) if new in source.columns}
        roots = {path[0] for path in _nested_paths(source).values()}
        stored = [field for field in parquet.schema_arrow if field.name in roots or field.name in wanted]
        batch = next(parquet.iter_batches(rows, [index], [field.name for field in stored], use_threads=False), None)
        group = pa.Table.from_batches([batch] if batch is not None else [], pa.schema(stored))
        group = _flat(source, group).select(list(wanted)).rename_columns(list(wanted.values()))
        return _parse(source, schema, index, group, clock)
