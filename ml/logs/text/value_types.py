"""Finds the texts of a column that are not values of its type, with the conversions that Arrow's CSV reader uses."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute creates its functions at import, so type checkers do not see them)

from __future__ import annotations

from functools import reduce

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ml.catalog.reading import ColumnType
from ml.catalog.value_paths import EACH, KeyPath
from ml.schema import ARROW_TYPES

_SURELY = {"int": r"^-?[0-9]{1,18}$", "float": r"^-?[0-9]{1,15}(\.[0-9]{1,15})?$"}
_BOOLEANS = pa.array(["1", "True", "TRUE", "true", "0", "False", "FALSE", "false"])


def all_finite(table: pa.Table) -> bool:
    """Whether every float of the table is finite (null counts as finite)."""
    columns = [pc.list_flatten(column) if pa.types.is_list(column.type) else column for column in table.columns]
    floats = [column for column in columns if pa.types.is_floating(column.type)]
    return all(pc.all(pc.is_finite(column), min_count=0).as_py() for column in floats)


def bad_values(texts: pa.Array, kind: ColumnType) -> NDArray[np.bool_]:
    """Marks the texts [N] that are not values of `kind`, bool [N]; null is fine. Checks only doubtful texts one by one."""
    if kind == "string":
        return np.zeros(len(texts), bool)
    if kind == "bool":
        wrong = pc.invert(pc.is_in(texts, _BOOLEANS))
    elif _all_values(texts, kind):
        return np.zeros(len(texts), bool)
    else:
        doubtful = texts.filter(pc.fill_null(pc.invert(pc.match_substring_regex(texts, _SURELY[kind])), False)).unique()
        wrong = pc.is_in(texts, pa.array([text for text in doubtful.to_pylist() if not _is_value(text, kind)], pa.string()))
    return pc.and_(wrong, pc.is_valid(texts)).to_numpy(zero_copy_only=False)


def _all_values(texts: pa.Array, kind: ColumnType) -> bool:
    try:
        values = texts.cast(ARROW_TYPES[kind])
    except pa.ArrowInvalid:  # one of them is bad, or padded with blanks, which the CSV reader strips
        return False
    return kind != "float" or bool(pc.all(pc.is_finite(values), min_count=0).as_py())


def _is_value(text: str, kind: ColumnType) -> bool:
    try:
        value = pa.scalar(text.strip(" \t")).cast(ARROW_TYPES[kind]).as_py()
    except pa.ArrowInvalid:
        return False
    return bool(np.isfinite(value)) if kind == "float" else True


def column_at(table: pa.Table, path: KeyPath) -> pa.ChunkedArray:
    """Returns the column [N] at the end of a path of struct fields; null where one of the structs is.

    Beyond `EACH`, it has lists, with the value in each struct of the list there.
    """
    first, *keys = path
    if EACH not in keys:
        return pc.struct_field(table[first], keys) if keys else table[first]
    depth = path.index(EACH)
    column, keys = column_at(table, path[:depth]), path[depth + 1 :]
    found = [with_elements(lists, pc.struct_field(lists.flatten(), list(keys))) for lists in column.chunks]
    element = reduce(lambda held, key: held.field(key).type, keys, column.type.value_type)
    return pa.chunked_array(found, pa.list_(element))


def with_elements(lists: pa.Array, elements: pa.Array) -> pa.ListArray:
    """Returns lists [N] as long as `lists`, and null where these are, of other elements [V], which are in order."""
    lengths = pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), elements, mask=lists.is_null())


def without_null_tokens(texts: pa.Array, tokens: pa.Array) -> pa.Array:
    """Replaces every text [N] that is one of the tokens by null; an array without any is returned as it is."""
    found = pc.is_in(texts, tokens)
    return pc.if_else(found, pa.scalar(None, texts.type), texts) if found.true_count else texts


def list_without_null_tokens(lists: pa.Array, tokens: pa.Array) -> pa.Array:
    """Replaces every text in lists [N] that is one of the tokens by null; lists without any are returned as they are."""
    texts = lists.flatten()
    if (known := without_null_tokens(texts, tokens)) is texts:
        return lists
    return with_elements(lists, known)


def trim_texts(values: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Removes blanks around texts [N], in lists and dictionaries too; values of other types are returned as they are."""
    kind = values.type
    if pa.types.is_dictionary(kind):
        return trim_texts(values.cast(kind.value_type)) if pa.types.is_string(kind.value_type) else values
    if pa.types.is_string(kind):
        return pc.utf8_trim_whitespace(values)
    if not (pa.types.is_list(kind) and pa.types.is_string(kind.value_type)):
        return values
    if isinstance(values, pa.ChunkedArray):
        return pa.chunked_array([trim_texts(chunk) for chunk in values.chunks], kind)
    return with_elements(values, trim_texts(values.flatten()))


def table_without_null_tokens(table: pa.Table, tokens: tuple[str, ...]) -> pa.Table:
    """Replaces the tokens in every column of text by null, for formats whose reader has no null tokens."""
    wanted = pa.array(tokens, pa.string())
    columns = [
        pa.chunked_array([without_null_tokens(chunk, wanted) for chunk in column.chunks], column.type)
        if pa.types.is_string(column.type)
        else column
        for column in table.columns
    ]
    return pa.table(columns, schema=table.schema)
