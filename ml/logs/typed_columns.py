"""Converts columns of any Arrow type to the types that a catalog entry declares, without changing what a value means.

The same value gives the same result whatever the type in which a file stores it: an id is the same text whether one day's
file holds int64 and the next day's doubles, and a time is the same number whatever the unit of the file's timestamps. Values
that cannot be converted so are marked, and become malformed lines. `ml.logs.parquet` reads files with it.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute creates its functions at import, so type checkers do not see them)

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ml.catalog.reading import ColumnType, Source
from ml.catalog.value_text import element_type
from ml.logs.text.value_types import bad_values, trim_texts, with_elements, without_null_tokens
from ml.schema import ARROW_TYPES

INT64_MAX = 2**63 - 1
_TRAILING_ZEROS = r"(\.\d*?)0+$"
_DECIMAL_INT = r"^([ \t]*-?[0-9]{1,15})\.0*([ \t]*)$"  # of 15 digits, because floats are exact to 2^53
_UINT64_MAX = str(2**64 - 1)


class UnreadableType(TypeError):
    """A column's type cannot be read as the declared type. The message says which type it is, and what to do."""


@dataclass(frozen=True)
class ValueRules:
    """How the values of a column are written. The attributes are the keys of the source.

    Attributes:
        null_tokens: Texts that are missing values.
        trim: Whether blanks around texts are removed.
        decimal_ints: Whether texts such as `9.0` are ints.
        unsigned: Whether ints are unsigned ids, whose bits become those of a signed int.
    """

    null_tokens: tuple[str, ...] = ()
    trim: bool = False
    decimal_ints: bool = False
    unsigned: bool = False

    @classmethod
    def of(cls, source: Source, column: str) -> Self:
        """The rules of a column of a source."""
        return cls(source.null_tokens, source.trim, source.decimal_ints, column in (source.unsigned or ()))


AS_TYPED = ValueRules()
"""Values are written as their type."""


@dataclass(frozen=True)
class TypedColumn:
    """A column of N values in its declared type.

    Attributes:
        values: The values, null where one could not be converted, [N].
        wrong: Whether a value could not be converted, bool [N].
        inexact: Which of these are integers that floating-point numbers cannot tell from their neighbours, bool [N].
        not_utf8: Which of these are bytes that are not UTF-8 text, bool [N].
    """

    values: pa.Array
    wrong: NDArray[np.bool_]
    inexact: NDArray[np.bool_]
    not_utf8: NDArray[np.bool_]


def type_column(column: pa.ChunkedArray, kind: ColumnType, rules: ValueRules = AS_TYPED, time_unit: str = "us") -> TypedColumn:
    """Converts a column.

    Args:
        column: Values of any type, [N].
        kind: The declared type.
        rules: How the values are written.
        time_unit: Unit of the integers that timestamps become (`s`, `ms`, `us` or `ns`).

    Raises:
        UnreadableType: No value of the column's type can be read as `kind`.
    """
    if (inner := element_type(kind)) is not None:
        return _type_lists(column, kind, inner, rules)
    values, not_utf8 = _plain(column)
    held = values.type
    if pa.types.is_floating(held) and any(token.strip().lower() == "nan" for token in rules.null_tokens):
        values = _without(values, pc.is_nan(values))
    inexact = np.zeros(len(values), bool)
    if pa.types.is_null(held):
        typed, wrong = values.cast(ARROW_TYPES[kind]), np.zeros(len(values), bool)
    elif pa.types.is_string(held):
        typed, wrong = _from_texts(values, kind, rules)
    elif pa.types.is_floating(held) and kind in ("int", "string"):
        typed, wrong, inexact = _from_floats(values, kind)
    elif pa.types.is_decimal(held) and kind in ("int", "string"):
        typed, wrong = _from_texts(_decimal_texts(values), kind, ValueRules(unsigned=rules.unsigned))
    elif kind == "bool" and _is_number(held):
        typed, wrong = _bools(values)
    elif kind == "int" and rules.unsigned and held == pa.uint64():
        typed, wrong = values.view(pa.int64()), np.zeros(len(values), bool)
    elif pa.types.is_boolean(held) or _is_number(held):
        typed, wrong = _numbers(values, kind)
    elif pa.types.is_temporal(held) and kind in ("int", "string"):
        typed, wrong = _from_times(values, kind, time_unit), np.zeros(len(values), bool)
    else:
        raise _unreadable(held, kind)
    return TypedColumn(typed, wrong | not_utf8, inexact, not_utf8)


def _type_lists(column: pa.ChunkedArray, kind: ColumnType, inner: ColumnType, rules: ValueRules) -> TypedColumn:
    """Converts lists [N] by their elements. A list with a wrong element is wrong."""
    whole = column.combine_chunks()
    lists = pa.concat_arrays(whole.chunks) if isinstance(whole, pa.ChunkedArray) else whole
    none = np.zeros(len(lists), bool)
    if pa.types.is_null(lists.type):
        return TypedColumn(lists.cast(ARROW_TYPES[kind]), none, none, none)
    if not is_list(lists.type):
        raise UnreadableType(f"is {lists.type}, which cannot be read as {kind}; declare it as it is, or give list_separator")
    lists = lists.cast(pa.list_(lists.type.value_type))
    lengths = pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False)
    parents = np.repeat(np.arange(len(lists)), lengths)
    typed = type_column(pa.chunked_array([lists.flatten()]), inner, rules)
    of_lists = [np.isin(np.arange(len(lists)), parents[mask]) for mask in (typed.wrong, typed.inexact, typed.not_utf8)]
    return TypedColumn(with_elements(lists, typed.values), *of_lists)


def _plain(column: pa.ChunkedArray) -> tuple[pa.Array, NDArray[np.bool_]]:
    """One array without dictionaries, text as strings; and which values are bytes that are not UTF-8, bool [N]."""
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.cast(column.type.storage_type)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    combined = column.combine_chunks()
    values = pa.concat_arrays(combined.chunks) if isinstance(combined, pa.ChunkedArray) else combined
    none = np.zeros(len(values), bool)
    if pa.types.is_large_string(values.type) or values.type == pa.string_view():
        return values.cast(pa.string()), none
    if pa.types.is_binary(values.type) or pa.types.is_large_binary(values.type) or values.type == pa.binary_view():
        values = values.cast(pa.binary())
        none[_not_utf8(values)] = True
        return pc.if_else(pa.array(none), pa.scalar(None, pa.binary()), values).cast(pa.string()), none
    return values, none


def _not_utf8(values: pa.Array) -> list[int]:
    """Indices of the values that are not UTF-8, found by halving."""
    found, todo = [], [(0, len(values))]
    while todo:
        low, high = todo.pop()
        try:
            values.slice(low, high - low).cast(pa.string())
        except pa.ArrowInvalid:
            middle = (low + high) // 2
            if high - low == 1:
                found.append(low)
            else:
                todo += [(low, middle), (middle, high)]
    return found


def _from_texts(texts: pa.Array, kind: ColumnType, rules: ValueRules) -> tuple[pa.Array, NDArray[np.bool_]]:
    texts = trim_texts(texts) if rules.trim else texts
    if kind == "string":
        return texts, np.zeros(len(texts), bool)
    texts = without_null_tokens(texts, pa.array(rules.null_tokens, pa.string()))
    if kind == "int" and rules.decimal_ints:
        texts = pc.replace_substring_regex(texts, _DECIMAL_INT, r"\1\2")
    if kind == "int" and rules.unsigned:
        texts = _signed_texts(texts)
    wrong = bad_values(texts, kind)
    return pc.utf8_trim(_without(texts, pa.array(wrong)), " \t").cast(ARROW_TYPES[kind]), wrong


def _signed_texts(texts: pa.Array) -> pa.Array:
    """Replaces integers from 2^63 to 2^64 - 1 by the signed ones with the same bits."""
    digits = pc.utf8_trim(texts, " \t")
    most = pa.scalar(_UINT64_MAX)
    large = pc.or_(
        pc.match_substring_regex(digits, "^[0-9]{19}$"),
        pc.and_(pc.match_substring_regex(digits, "^[0-9]{20}$"), pc.less_equal(digits, most)),
    )
    large = pc.fill_null(large, False)
    if not large.true_count:
        return texts
    signed = _without(digits, pc.invert(large)).cast(pa.uint64()).view(pa.int64())
    return pc.if_else(large, signed.cast(pa.string()), texts)


def _from_floats(values: pa.Array, kind: ColumnType) -> tuple[pa.Array, NDArray[np.bool_], NDArray[np.bool_]]:
    """Integers, or texts in which a whole number has no decimal point, as it would have if it had come as an integer."""
    numbers = pc.fill_null(values, pa.scalar(0, values.type)).to_numpy(zero_copy_only=False)
    whole = np.isfinite(numbers) & (np.floor(numbers) == numbers)
    inexact = whole & (np.abs(numbers) >= 2 ** (np.finfo(numbers.dtype).nmant + 1))
    usable = whole & ~inexact
    integers = pa.array(np.where(usable, numbers, 0).astype(np.int64), mask=~usable)
    integers = _without(integers, pc.is_null(values))
    if kind == "int":
        return integers, ~usable, inexact
    wrong = inexact | ~np.isfinite(numbers)
    return (
        pc.if_else(pa.array(usable), integers.cast(pa.string()), _without(values, pa.array(wrong)).cast(pa.string())),
        wrong,
        inexact,
    )


def _decimal_texts(values: pa.Array) -> pa.Array:
    """Decimals as texts without trailing zeros, so that 1.50 and 1.5 are the same text."""
    if values.type.scale < 0:
        values = values.cast(pa.decimal256(76, 0))
    texts = values.cast(pa.string())
    if values.type.scale <= 0:
        return texts
    return pc.utf8_rtrim(pc.replace_substring_regex(texts, _TRAILING_ZEROS, r"\1"), ".")


def _bools(values: pa.Array) -> tuple[pa.Array, NDArray[np.bool_]]:
    """True and false for 1 and 0. Any other number is not a truth value."""
    if not pa.types.is_integer(values.type):
        values = values.cast(pa.float64())
    one = pc.fill_null(pc.equal(values, pa.scalar(1, values.type)), False)
    wrong = pc.and_(
        pc.is_valid(values), pc.invert(pc.or_(one, pc.fill_null(pc.equal(values, pa.scalar(0, values.type)), False)))
    )
    return _without(one, pc.or_(wrong, pc.is_null(values))), wrong.to_numpy(zero_copy_only=False)


def _numbers(values: pa.Array, kind: ColumnType) -> tuple[pa.Array, NDArray[np.bool_]]:
    wrong = np.zeros(len(values), bool)
    if kind == "int" and values.type == pa.uint64():
        wrong = pc.fill_null(pc.greater(values, pa.scalar(INT64_MAX, pa.uint64())), False).to_numpy(zero_copy_only=False)
        values = _without(values, pa.array(wrong))
    # A float is a measure: an integer beyond 2^53 is rounded, as it is when it comes as text.
    typed = values.cast(ARROW_TYPES[kind], safe=kind != "float")
    if kind == "float":
        wrong = pc.fill_null(pc.invert(pc.is_finite(typed)), False).to_numpy(zero_copy_only=False)
        typed = _without(typed, pa.array(wrong))
    return typed, wrong


def _from_times(values: pa.Array, kind: ColumnType, unit: str) -> pa.Array:
    held = values.type
    if pa.types.is_timestamp(held):
        values = values.cast(pa.timestamp(unit if kind == "int" else "us", held.tz), safe=False)
    elif pa.types.is_time(held):
        values = values.cast(pa.time64("us"), safe=False)
    elif pa.types.is_duration(held):
        return values.cast(pa.duration("us"), safe=False).cast(pa.int64()).cast(ARROW_TYPES[kind])
    elif kind == "int" or not pa.types.is_date(held):
        raise _unreadable(held, kind)
    else:
        values = values.cast(pa.date32())
    return values.cast(ARROW_TYPES[kind])


def is_list(held: pa.DataType) -> bool:
    """Whether values of a type are lists, of any length and layout."""
    return pa.types.is_list(held) or pa.types.is_large_list(held) or pa.types.is_fixed_size_list(held)


def _is_number(held: pa.DataType) -> bool:
    return pa.types.is_integer(held) or pa.types.is_floating(held) or pa.types.is_decimal(held)


def _without(values: pa.Array, mask: pa.Array) -> pa.Array:
    """The values, null where `mask` [N] is true."""
    return pc.if_else(mask, pa.scalar(None, values.type), values)


def _unreadable(held: pa.DataType, kind: ColumnType) -> UnreadableType:
    if pa.types.is_nested(held):
        way_out = (
            "declare a list as list<string> or list<int>, read the fields of a struct by source.paths, and those of a list of "
            "structs by source.paths and source.explode"
        )
    elif pa.types.is_temporal(held):
        way_out = "declare it as string, or write it as a timestamp"
    else:
        way_out = "write it as text or as numbers"
    return UnreadableType(f"is {held}, which cannot be read as {kind}; {way_out}")
