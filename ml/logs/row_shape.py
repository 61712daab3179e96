"""Shapes the rows of a file into the rows of a log.

Texts are divided into lists, each element of an exploded field gets its own row, and columns of the file's path are added.
`ml.catalog.row_shape` declares the shape. Readers of files see the fields as they are in the file (`in_file`).
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute creates its functions at import, so type checkers do not see them)

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ml.catalog.reading import ColumnType, Source
from ml.catalog.row_shape import field_of, in_file
from ml.catalog.value_paths import object_lists
from ml.catalog.value_text import element_type
from ml.logs.parsed_blocks import ParsedBlock
from ml.logs.quarantine import LENGTHS, bad_element, bad_value
from ml.logs.text.layout import WrongFile
from ml.logs.text.value_types import table_without_null_tokens, trim_texts, without_null_tokens
from ml.logs.typed_columns import ValueRules, type_column
from ml.schema import ARROW_TYPES

HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class ShapedRows:
    """M rows of N lines.

    Attributes:
        table: The source's columns, [M].
        lines: Index of each row's line, int64 [M], ascending.
        bad: Line -> reason, of lines with an element that is malformed. They have no rows.
    """

    table: pa.Table
    lines: NDArray[np.int64]
    bad: dict[int, str]


@dataclass(frozen=True)
class _Elements:
    """V elements of the lists of N lines: their values [V], and the line of each, int64 [V], ascending."""

    values: pa.Array
    lines: NDArray[np.int64]


def shape_block(source: Source, block: ParsedBlock, file: str) -> ParsedBlock:
    """Shapes the rows of a block of a file. Arguments and errors as for `shape_rows`."""
    shaped = shape_rows(source, block.table, file)
    # The reader names the type as which it reads a column.
    declared = {
        bad_value(kind, name): bad_value(source.columns[name], name)
        for name, kind in in_file(source).columns.items()
        if name in source.columns and name not in (source.explode or ())
    }
    reasons = [declared.get(reason, reason) for reason in block.reasons]
    bad = dict(zip(block.bad_lines.tolist(), reasons, strict=True))
    bad |= {int(block.row_lines[line]): reason for line, reason in shaped.bad.items()}
    bad = dict(sorted(bad.items()))
    return replace(
        block,
        table=shaped.table,
        row_lines=block.row_lines[shaped.lines],
        bad_lines=np.fromiter(bad, np.int64, len(bad)),
        reasons=list(bad.values()),
    )


def is_shaped(source: Source) -> bool:
    """Whether the rows of a source differ from the lines of its files."""
    return (
        source.trim
        or in_file(source).columns != source.columns
        or source.explode is not None
        or source.path_columns is not None
        or any(map(element_type, source.columns.values()))
    )


def path_values(source: Source, file: str) -> dict[str, pa.Scalar]:
    """Reads the values that the folders of a file give, such as `country=de`.

    Args:
        source: The log's columns and `path_columns`.
        file: Path of the file below the landing folder.

    Returns:
        Column -> value in its declared type, null for a missing one.

    Raises:
        WrongFile: A folder is absent, or its value is not of the declared type.
    """
    found: dict[str, pa.Scalar] = {}
    for column in source.path_columns or ():
        part, kind = re.search(rf"(?:^|[/!]){re.escape(column)}=([^/]*)/", file), source.columns[column]
        if part is None:
            raise WrongFile(f"{file}: no folder `{column}=...` in the path; correct source.path_columns or source.files")
        text = None if part[1] == HIVE_NULL or part[1] in source.null_tokens else unquote(part[1])
        typed = type_column(pa.chunked_array([pa.array([text], pa.string())]), kind, ValueRules.of(source, column))
        if typed.wrong.any():
            raise WrongFile(f"{file}: {column}={part[1]} in the path is not {kind}; correct source.columns.{column}")
        found[column] = typed.values[0]
    return found


def shape_rows(source: Source, table: pa.Table, file: str = "") -> ShapedRows:
    """Shapes rows.

    Args:
        source: The log's columns, lists and exploded fields.
        table: Rows as they are in the file, with the fields of `in_file(source)`, [N].
        file: Path of the file below the landing folder, for columns of the path.

    Raises:
        WrongFile: The path lacks a column.

    Example:
        >>> columns = {"user": "string", "item": "string", "clicked": "int"}
        >>> source = Source(files="a", format="csv", columns=columns, explode={"shown": ["item", "clicked"]},
        ...     list_separator=" ", part_separator="-")
        >>> shape_rows(source, pa.table({"user": ["u7"], "shown": ["n55-1 n35-0"]})).table.to_pylist()
        [{'user': 'u7', 'item': 'n55', 'clicked': 1}, {'user': 'u7', 'item': 'n35', 'clicked': 0}]
    """
    if source.trim:
        table = table_without_null_tokens(
            pa.table([trim_texts(column) for column in table.columns], table.column_names), source.null_tokens
        )
    bad: dict[int, str] = {}
    of_path = path_values(source, file)
    of_lines = {
        name: _list_column(source, name, table[name], kind, bad)
        if element_type(kind)
        else _typed_column(source, name, table[name], kind, bad)
        for name, kind in source.columns.items()
        if name not in field_of(source) and name not in of_path
    }
    of_lines |= {name: pa.chunked_array([pa.repeat(value, table.num_rows)]) for name, value in of_path.items()}
    of_elements: dict[str, _Elements] = {}
    objects = object_lists(source)
    for name, columns in (source.explode or {}).items():
        if name in objects:
            for one in columns:
                of_elements[one] = _typed(_elements(source, table[one]), one, source.columns[one], source, bad)
        else:
            of_elements |= _explode(source, name, columns, table[name], bad)
    _check_lengths(source, of_elements, table.num_rows, bad)
    good = np.ones(table.num_rows, bool)
    good[list(bad)] = False
    lines = np.flatnonzero(good)
    if source.explode:
        first = next(iter(of_elements.values())).lines
        lines = first[good[first]]
        of_lines |= {name: one.values.filter(pa.array(good[one.lines])) for name, one in of_elements.items()}
    if source.explode or bad:
        at = pa.array(lines)
        of_lines = {name: column if name in of_elements else column.take(at) for name, column in of_lines.items()}
    taken = [of_lines[name] for name in source.columns]
    schema = pa.schema([(name, ARROW_TYPES[kind]) for name, kind in source.columns.items()])
    return ShapedRows(pa.table(taken, names=schema.names).cast(schema), lines, dict(sorted(bad.items())))


def _elements(source: Source, column: pa.ChunkedArray) -> _Elements:
    """The elements of lists, or of the texts that hold them, without null tokens; a missing list has none."""
    whole = column.combine_chunks()
    lists = pa.concat_arrays(whole.chunks) if isinstance(whole, pa.ChunkedArray) else whole
    if pa.types.is_string(lists.type):
        lists = pc.split_pattern(lists, source.list_separator)
        lengths = pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False)
        values, lines = lists.flatten(), np.repeat(np.arange(len(lists)), lengths)
        there = pc.not_equal(values, "")
        values, lines = values.filter(there), lines[there.to_numpy(zero_copy_only=False)]
        values = trim_texts(values) if source.trim else values
    else:
        lengths = pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False)
        values, lines = lists.flatten(), np.repeat(np.arange(len(lists)), lengths)
    if pa.types.is_string(values.type):
        values = without_null_tokens(values, pa.array(source.null_tokens, pa.string()))
    return _Elements(values, lines)


def _typed_column(
    source: Source, name: str, column: pa.ChunkedArray, kind: ColumnType, bad: dict[int, str]
) -> pa.ChunkedArray | pa.Array:
    """A column that was read as text, because its values are not written as its type, as values of its type."""
    if column.type.equals(ARROW_TYPES[kind]) or not pa.types.is_string(column.type):
        return column
    typed = type_column(column, kind, ValueRules.of(source, name))
    for line in np.flatnonzero(typed.wrong).tolist():
        bad.setdefault(line, bad_value(kind, name))
    return typed.values


def _typed(elements: _Elements, name: str, kind: ColumnType, source: Source, bad: dict[int, str]) -> _Elements:
    """The elements as values of a type; lines with an element that is none are bad."""
    typed = type_column(pa.chunked_array([elements.values]), kind, ValueRules.of(source, name))
    for line in np.unique(elements.lines[typed.wrong]).tolist():
        bad.setdefault(line, bad_value(kind, name))
    return replace(elements, values=typed.values)


def _list_column(source: Source, name: str, column: pa.ChunkedArray, kind: ColumnType, bad: dict[int, str]) -> pa.Array:
    inner = element_type(kind)
    assert inner is not None
    elements = _typed(_elements(source, column), name, inner, source, bad)
    offsets = np.concatenate(([0], np.cumsum(np.bincount(elements.lines, minlength=len(column))))).astype(np.int32)
    missing = pc.is_null(column).combine_chunks()
    return pa.ListArray.from_arrays(pa.array(offsets), elements.values, mask=missing)


def _explode(
    source: Source, name: str, columns: tuple[str, ...], field: pa.ChunkedArray, bad: dict[int, str]
) -> dict[str, _Elements]:
    """The columns that the elements of a field give. Lines with an element that lacks a part are bad, and have none."""
    elements = _elements(source, field)
    kinds: list[ColumnType] = [source.columns[column] for column in columns]
    if len(columns) == 1:
        return {columns[0]: _typed(elements, columns[0], kinds[0], source, bad)}
    parts = pc.split_pattern(elements.values, source.part_separator, max_splits=len(columns) - 1, reverse=True)
    whole = pc.fill_null(pc.equal(pc.list_value_length(parts), len(columns)), False)
    is_whole = whole.to_numpy(zero_copy_only=False)
    for line in np.unique(elements.lines[~is_whole]).tolist():
        bad.setdefault(line, bad_element(name))
    parts, lines, found = parts.filter(whole), elements.lines[is_whole], {}
    for i, (column, kind) in enumerate(zip(columns, kinds, strict=True)):
        texts = trim_texts(pc.list_element(parts, i)) if source.trim else pc.list_element(parts, i)
        part = without_null_tokens(texts, pa.array(source.null_tokens, pa.string()))
        found[column] = _typed(_Elements(part, lines), column, kind, source, bad)
    return found


def _check_lengths(source: Source, elements: dict[str, _Elements], count: int, bad: dict[int, str]) -> None:
    """Lines whose lists differ in length are bad."""
    firsts = [elements[columns[0]].lines for columns in (source.explode or {}).values()]
    lengths = [np.bincount(lines, minlength=count) for lines in firsts]
    for other in lengths[1:]:
        for line in np.flatnonzero(other != lengths[0]).tolist():
            bad.setdefault(line, LENGTHS)
