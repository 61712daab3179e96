"""Conversion of the raw log columns that a caller sends to the types of a dataset's spec."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ml.artifacts.request_times import check_event_time, to_event_time
from ml.catalog.reading import ColumnType
from ml.catalog.spec import DatasetSpec
from ml.features.hashing import hash_values
from ml.logs.text.value_types import list_without_null_tokens, trim_texts, without_null_tokens
from ml.logs.typed_columns import AS_TYPED, UnreadableType, ValueRules, type_column
from ml.schema import ARROW_TYPES, EVENT_TIME, HISTORY_PREFIX

if TYPE_CHECKING:
    import pandas as pd

FLOAT_LIMIT = 2**53  # from here on, several ints are the same float64; pandas turns ints beside missing values into floats
_AMBIGUOUS = (
    f"ints were sent as floats that are too large to be exact (from {FLOAT_LIMIT} on, or {2**24} as float32); if there are "
    f"missing values, send them as text, or in pandas as Int64"
)
_IN_NUMPY = {pa.int64(): np.dtype(np.int64), pa.float64(): np.dtype(np.float64), pa.bool_(): np.dtype(bool)}
_DECLARED: dict[pa.DataType, ColumnType] = {kind: name for name, kind in ARROW_TYPES.items()}


def raw_columns(spec: DatasetSpec) -> dict[str, pa.DataType]:
    """List the columns that a dataset's features are computed from, with their types.

    These are columns of the log, columns that are joined to it, counts, and values of feature tables; `event_time`
    (microseconds since 1970-01-01 UTC, whatever the unit of the log) if a feature uses the hour; and for each history feature
    `history:<feature>`, a list of the last items of the user, or of the last values that a feature table declares, newest
    first.
    """
    used = [d.column for d in spec.dense] + [column for s in spec.sparse for column in s.inputs]
    columns = {name: ARROW_TYPES[spec.column_types[name]] for name in used}
    if any(feature.hour_of_day for feature in spec.sparse):
        columns[EVENT_TIME] = pa.int64()
    histories = {feature.name: spec.history_of(feature)[0] for feature in spec.sparse if feature.history}
    lists = {name: pa.list_(ARROW_TYPES[spec.column_types[column]]) for name, column in histories.items()}
    return columns | {f"{HISTORY_PREFIX}{name}": kind for name, kind in lists.items()}


def time_column(spec: DatasetSpec) -> str | None:
    """Return the column of the log that rows may have in place of `event_time`; None without one, or if no feature uses it."""
    return spec.time.column if spec.time.clock is None and any(feature.hour_of_day for feature in spec.sparse) else None


class RawColumns:
    """Turns raw log rows into the record batch that a dataset's transforms read.

    Args:
        spec: The dataset.

    Example:
        >>> from ml.catalog.load import load_catalog
        >>> check = RawColumns(load_catalog()["criteo"])
        >>> check(pa.RecordBatch.from_pydict({"I1": ["7", None], "other": [1, 2]}))["I1"].to_pylist()
        [7, None]
    """

    def __init__(self, spec: DatasetSpec) -> None:
        self.types = raw_columns(spec)
        self._clock, at, named = spec.time, spec.time.column, time_column(spec)
        self._without_event_time = self.types | {named: ARROW_TYPES[spec.source.columns[named]]} if named else self.types
        self._units = {at: spec.time.unit} if at and spec.source.columns[at] == "int" else {}
        self._checks_time = EVENT_TIME in self.types and spec.partitions.start.year >= 1990
        listed = {s.name: spec.history_of(s) for s in spec.sparse if s.history}
        self._histories = {
            f"{HISTORY_PREFIX}{name}": (most, spec.feature_of(column) or "") for name, (column, most) in listed.items()
        }
        self._rules = _value_rules(spec, self._without_event_time)
        texts = {
            name: rules
            for name, rules in self._rules.items()
            if self._without_event_time[name] in (pa.string(), pa.list_(pa.string()))
        }
        self._texts = {name: pa.array(rules.null_tokens, pa.string()) for name, rules in texts.items() if rules.null_tokens}
        self._trimmed = [name for name, rules in texts.items() if rules.trim]
        self._as_declared: pa.Schema | None = None  # of the last record batch that needed no change

    def __call__(self, rows: pa.RecordBatch | pd.DataFrame) -> pa.RecordBatch:
        """Check N rows.

        Args:
            rows: N rows with the columns of `raw_columns`; other columns are ignored. Missing values may be null, NaN or None,
                ints may be sent as text, and histories may be omitted. In place of `event_time`, rows may have the log's time
                column, which is read in the unit and the time zone of the catalog entry.

        Returns:
            N rows in declared types, with histories as lists of ids.

        Raises:
            KeyError: A record batch has a column twice.
            TypeError: A column cannot be read in its declared type, or its ints were sent as floats that are too large to be
                exact, or `event_time` is not in microseconds. The message names the column.
        """
        if isinstance(rows, pa.RecordBatch):
            if self._as_declared is not None and rows.schema.equals(self._as_declared):
                return self._texts_without_null_tokens(self._time_checked(rows))
            types = self.types if EVENT_TIME in rows.schema.names else self._without_event_time
            held = {name: rows.column(name) for name in rows.schema.names if name in types}
            columns = {name: typed_array(name, column, *self._reading(name)) for name, column in held.items()}
            if types is self.types and not self._histories and all(columns[name] is held[name] for name in held):
                self._as_declared = rows.schema
        else:
            types = self.types if EVENT_TIME in rows else self._without_event_time
            found = [(str(name), column) for name, column in rows.items() if name in types]
            columns = {name: typed_series(name, column, *self._reading(name)) for name, column in found}
            if len(columns) < len(found):
                raise TypeError(f"columns {[name for name, _ in found]}: some occur more than once")
        if types is not self.types and (at := self._clock.column) and at in columns:
            columns[EVENT_TIME] = to_event_time(columns[at], self._clock)
            columns = {name: column for name, column in columns.items() if name in self.types}
        for name, (most, feature) in self._histories.items():
            if name in columns:
                columns[name] = _ids(columns[name], most, feature)
        batch = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
        return self._texts_without_null_tokens(self._time_checked(batch))

    def _time_checked(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        if self._checks_time and (at := rows.schema.get_field_index(EVENT_TIME)) >= 0:
            check_event_time(rows.column(at))
        return rows

    def _reading(self, name: str) -> tuple[pa.DataType, ValueRules, str]:
        return self._without_event_time[name], self._rules[name], self._units.get(name, "us")

    def _texts_without_null_tokens(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Trim texts and replace null tokens, as reading a log does; rows without any are returned as they are."""
        for name in self._trimmed:
            if (at := rows.schema.get_field_index(name)) >= 0:
                rows = rows.set_column(at, name, trim_texts(rows.column(at)))
        for name, tokens in self._texts.items():
            if (at := rows.schema.get_field_index(name)) < 0:
                continue
            held = rows.column(at)
            known = list_without_null_tokens(held, tokens) if pa.types.is_list(held.type) else without_null_tokens(held, tokens)
            if known is not held:
                rows = rows.set_column(at, name, known)
        return rows


def _ids(items: pa.Array, most: int, feature: str) -> pa.Array:
    """Convert lists of values [N] to lists of their ids in a feature; a missing list becomes an empty one."""
    kept = pc.call_function("list_slice", [items], pc.ListSliceOptions(0, most))
    lengths = pc.call_function("list_value_length", [kept]).fill_null(0).to_numpy()
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(hash_values(feature, kept.flatten())))


def _value_rules(spec: DatasetSpec, types: dict[str, pa.DataType]) -> dict[str, ValueRules]:
    """Return how the values of each column are written; in a history, those of the column that it lists."""
    sources = [(spec.source, spec.source.columns), *((table.source, table.columns) for table in spec.join)]
    rules = {name: ValueRules.of(source, name) for source, names in sources for name in names}
    listed = {f"{HISTORY_PREFIX}{s.name}": spec.history_of(s)[0] for s in spec.sparse if s.history}
    return {name: rules.get(listed.get(name, name), ValueRules()) for name in types}


def typed_array(
    name: str, column: pa.Array, kind: pa.DataType, rules: ValueRules = AS_TYPED, time_unit: str = "us"
) -> pa.Array:
    """Convert an Arrow column to its declared type as reading a log does; dictionaries of text are kept.

    Args:
        name: The column's name, for messages.
        column: Values of any type, [N]. NaN is a missing value.
        kind: The declared type, or a list of it.
        rules: How the values are written. Null tokens stay in a column of text that is declared as text.
        time_unit: Unit of the integers that timestamps become (`s`, `ms`, `us` or `ns`).

    Raises:
        TypeError: Values cannot be converted without changing what they mean. The message names the column.
    """
    if isinstance(column, pa.DictionaryArray):
        if pa.types.is_string(kind) and column.type.value_type.equals(kind):
            return column
        column = column.dictionary_decode()
    if pa.types.is_large_list(column.type) or pa.types.is_fixed_size_list(column.type):
        column = column.cast(pa.list_(column.type.value_type))
    held = column.type
    if held.equals(kind):
        return column
    if pa.types.is_duration(held) or (pa.types.is_list(kind) and not (pa.types.is_null(held) or pa.types.is_list(held))):
        raise TypeError(f"column {name!r}: declared {kind}, found {held}")
    try:
        if pa.types.is_list(kind):
            return column.cast(kind) if pa.types.is_null(held) else _typed_list(name, column, kind, rules)
        if pa.types.is_floating(held):
            if pa.types.is_floating(kind):
                return column.cast(kind)  # features count infinities as missing
            column = _without_nan(column)
        typed = type_column(pa.chunked_array([column]), _DECLARED[kind], rules, time_unit)
    except (UnreadableType, pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise _refused(name, kind, error) from error
    if typed.inexact.any():
        raise _refused(name, kind, _AMBIGUOUS)
    if typed.wrong.any():
        first = column[int(typed.wrong.argmax())].as_py()
        raise _refused(
            name, kind, f"{typed.wrong.sum()} of {len(column)} values of {held} cannot be converted; the first is {first!r}"
        )
    return typed.values


def _without_nan(column: pa.Array) -> pa.Array:
    return pc.call_function("if_else", [pc.call_function("is_nan", [column]), pa.scalar(None, column.type), column])


def _typed_list(name: str, column: pa.Array, kind: pa.DataType, rules: ValueRules) -> pa.Array:
    """Convert the items of lists [N]. Null tokens stay in lists of text, as in columns of text."""
    lengths = pc.call_function("list_value_length", [column])
    offsets = np.concatenate(([0], np.cumsum(lengths.fill_null(0).to_numpy()))).astype(np.int32)
    typed = typed_array(name, column.flatten(), kind.value_type, rules)
    return pa.ListArray.from_arrays(pa.array(offsets), typed, mask=lengths.is_null())


def typed_series(
    name: str, column: pd.Series, kind: pa.DataType, rules: ValueRules = AS_TYPED, time_unit: str = "us"
) -> pa.Array:
    """Convert a pandas Series to its declared type, as `typed_array` does. None, NaN and NA are missing values."""
    plain = isinstance(column.dtype, np.dtype)
    # Arrow looks up several attributes of a Series, each of which takes long.
    values: Any = column.to_numpy() if plain else column
    try:
        if plain and kind in _IN_NUMPY and values.dtype == _IN_NUMPY[kind]:
            return pa.array(values, kind, from_pandas=True)
        held = _texts(values) if plain and pa.types.is_string(kind) else None
        held = pa.array(values, from_pandas=True) if held is None else held
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError) as error:
        raise _refused(name, kind, error) from error
    return typed_array(name, held.combine_chunks() if isinstance(held, pa.ChunkedArray) else held, kind, rules, time_unit)


def _texts(values: Any) -> pa.Array | None:
    """Convert objects that are all text or missing, without inferring their type first; None if they are not."""
    try:
        return pa.array(values, pa.string(), from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return None


def _refused(name: str, kind: pa.DataType, why: object) -> TypeError:
    return TypeError(f"column {name!r}: declared {kind}: {why}")
