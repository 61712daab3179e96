"""Conversion of the raw log columns that a caller sends to the types of a dataset's spec."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ml.artifacts.request_times import check_event_time, to_event_time
from ml.catalog.spec import DatasetSpec
from ml.features.hashing import hash_values
from ml.logs.text.value_types import without_null_tokens
from ml.logs.typed_columns import UnreadableType, type_column
from ml.schema import ARROW_TYPES, EVENT_TIME, HISTORY_PREFIX

if TYPE_CHECKING:
    import pandas as pd

_TEMPORAL = ("datetime64", "datetime", "date", "timedelta64", "timedelta")  # of pandas' `infer_dtype`
FLOAT_LIMIT = 2**53  # from here on, several ints are the same float64; pandas turns ints beside missing values into floats


def raw_columns(spec: DatasetSpec) -> dict[str, pa.DataType]:
    """List the columns that a dataset's features are computed from, with their types.

    These are columns of the log, columns that are joined to it, and counts; `event_time` (microseconds since 1970-01-01 UTC,
    whatever the unit of the log) if a feature uses the hour; and for each history feature `history:<feature>`, the user's last
    items, newest first.
    """
    used = [d.column for d in spec.dense] + [column for s in spec.sparse for column in s.inputs]
    columns = {name: ARROW_TYPES[spec.column_types[name]] for name in used}
    if any(feature.hour_of_day for feature in spec.sparse):
        columns[EVENT_TIME] = pa.int64()
    histories = [feature.name for feature in spec.sparse if feature.history]
    if histories:
        assert spec.item  # of which histories are lists
        items = pa.list_(ARROW_TYPES[spec.column_types[spec.item]])
        columns |= {f"{HISTORY_PREFIX}{name}": items for name in histories}
    return columns


def time_column(spec: DatasetSpec) -> str | None:
    """Return the column of the log that rows may have in place of `event_time`; None without one, or if no feature uses it."""
    return spec.time.column if any(feature.hour_of_day for feature in spec.sparse) else None


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
        self._histories = {f"{HISTORY_PREFIX}{s.name}": s.history for s in spec.sparse if s.history}
        self._item_feature = spec.item_feature or ""
        sources = [(spec.source, spec.source.columns), *((table.source, table.columns) for table in spec.join)]
        missing = {name: source.null_tokens for source, names in sources for name in names if source.null_tokens}
        types = self._without_event_time
        self._null_tokens = {name: pa.array(texts, pa.string()) for name, texts in missing.items() if name in types}
        self._texts = [name for name in self._null_tokens if pa.types.is_string(types[name])]
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
            columns = {
                name: typed_array(name, self._known(name, column, types[name]), types[name], self._units.get(name, "us"))
                for name, column in held.items()
            }
            if types is self.types and not self._histories and all(columns[name] is held[name] for name in held):
                self._as_declared = rows.schema
        else:
            types = self.types if EVENT_TIME in rows else self._without_event_time
            found = [(str(name), column) for name, column in rows.items() if name in types]
            columns = {
                name: typed_series(name, column, types[name], self._null_tokens.get(name), self._units.get(name, "us"))
                for name, column in found
            }
            if len(columns) < len(found):
                raise TypeError(f"columns {[name for name, _ in found]}: some occur more than once")
        if types is not self.types and (at := self._clock.column) and at in columns:
            columns[EVENT_TIME] = to_event_time(columns[at], self._clock)
            columns = {name: column for name, column in columns.items() if name in self.types}
        for name, most in self._histories.items():
            if name in columns:
                columns[name] = self._ids(columns[name], most)
        batch = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
        return self._texts_without_null_tokens(self._time_checked(batch))

    def _time_checked(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        if self._checks_time and (at := rows.schema.get_field_index(EVENT_TIME)) >= 0:
            check_event_time(rows.column(at))
        return rows

    def _known(self, name: str, column: pa.Array, kind: pa.DataType) -> pa.Array:
        """Replace null tokens in a column that is sent as text and is declared otherwise."""
        if name not in self._null_tokens or pa.types.is_string(kind) or not pa.types.is_string(column.type):
            return column
        return without_null_tokens(column, self._null_tokens[name])

    def _texts_without_null_tokens(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Replace null tokens in columns of text, as reading a log does; rows without any are returned as they are."""
        for name in self._texts:
            if (at := rows.schema.get_field_index(name)) < 0:
                continue
            held = rows.column(at)
            if (known := without_null_tokens(held, self._null_tokens[name])) is not held:
                rows = rows.set_column(at, name, known)
        return rows

    def _ids(self, items: pa.Array, most: int | None) -> pa.Array:
        """Convert lists of items [N] to lists of their ids; a missing list becomes an empty one."""
        kept = pc.call_function("list_slice", [items], pc.ListSliceOptions(0, most))
        lengths = pc.call_function("list_value_length", [kept]).fill_null(0).to_numpy()
        offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(hash_values(self._item_feature, kept.flatten())))


def _as_read(name: str, column: pa.Array, kind: pa.DataType, unit: str = "us") -> pa.Array:
    """Convert times to ints in `unit` or to text, and numbers to text, as reading a log does. Raises `TypeError`."""
    if pa.types.is_duration(column.type):
        raise TypeError(f"column {name!r}: declared {kind}, found {column.type}")
    try:
        typed = type_column(pa.chunked_array([column]), "int" if pa.types.is_integer(kind) else "string", time_unit=unit)
    except UnreadableType as error:
        raise TypeError(f"column {name!r}: declared {kind}: {error}") from error
    if typed.wrong.any():
        raise TypeError(f"column {name!r}: declared {kind}: {typed.wrong.sum()} values of {column.type} cannot be converted")
    return typed.values


def _trimmed(texts: pa.Array) -> pa.Array:
    """Numbers and flags as texts, without the blanks and tabs around them that reading a log ignores."""
    return pc.call_function("utf8_trim", [texts], pc.TrimOptions(" \t"))


def typed_array(name: str, column: pa.Array, kind: pa.DataType, unit: str = "us") -> pa.Array:
    """Cast an Arrow column to its declared type; dictionaries of that type are kept. Raises `TypeError`, naming the column.

    Timestamps become ints in `unit`.
    """
    held = column.type.value_type if isinstance(column, pa.DictionaryArray) else column.type
    if held.equals(kind):
        return column
    if pa.types.is_temporal(held) and (pa.types.is_integer(kind) or pa.types.is_string(kind)):
        return _as_read(name, column, kind, unit)
    listed = pa.types.is_list(held) or pa.types.is_large_list(held)
    values = column.flatten() if listed else column
    if pa.types.is_floating(values.type) and _is_int(kind):
        numbers = values.drop_null().to_numpy(zero_copy_only=False)
        if len(numbers) and bool((np.abs(numbers) >= _exact(numbers.dtype.type)).any()):
            raise TypeError(_ambiguous(name, kind))
    try:
        return (_trimmed(column) if pa.types.is_string(held) and column.type == held else column).cast(kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise TypeError(f"column {name!r}: declared {kind}: {error}") from error


def typed_series(name: str, column: Any, kind: pa.DataType, null_tokens: pa.Array | None = None, unit: str = "us") -> pa.Array:
    """Convert a pandas Series to its declared type. Raises `TypeError`, naming the column. Timestamps become ints in `unit`."""
    import pandas as pd

    plain = isinstance(column.dtype, np.dtype)
    values = column.to_numpy() if plain else column  # Arrow looks up several attributes of a Series, each of which takes long
    try:
        if not plain or values.dtype.kind not in "iufb":
            inferred = pd.api.types.infer_dtype(values) if _is_scalar(kind) and not pa.types.is_string(kind) else ""
            if inferred == "string":
                texts = pa.array(values, pa.string(), from_pandas=True)
                return _trimmed(texts if null_tokens is None else without_null_tokens(texts, null_tokens)).cast(kind)
            if pa.types.is_integer(kind) and inferred in _TEMPORAL:
                return _as_read(name, pa.array(column, from_pandas=True), kind, unit)
        elif pa.types.is_string(kind) and values.dtype.kind in "iuf":
            return _as_read(name, pa.array(values, from_pandas=True), kind)  # pandas holds text that is all missing as floats
        typed = _text_of(name, column, values) if pa.types.is_string(kind) else pa.array(values, kind, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise TypeError(f"column {name!r}: declared {kind}: {error}") from error
    if _is_int(kind) and _any_ambiguous(column.explode() if pa.types.is_list(kind) else column):
        raise TypeError(_ambiguous(name, kind))
    return typed


def _text_of(name: str, column: Any, values: Any) -> pa.Array:
    """Convert a Series, of which `values` are the values, to text: times as they are read from a log."""
    import pandas as pd

    try:
        return pa.array(values, pa.string(), from_pandas=True)
    except pa.ArrowTypeError:
        if pd.api.types.infer_dtype(column) not in _TEMPORAL:
            raise
        return _as_read(name, pa.array(column, from_pandas=True), pa.string())


def _is_scalar(kind: pa.DataType) -> bool:
    return not pa.types.is_list(kind)


def _is_int(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind.value_type if pa.types.is_list(kind) else kind)


def _any_ambiguous(values: pd.Series) -> bool:
    """Whether some of the values are floats that represent several ints."""
    if values.dtype.kind == "f":
        return bool((values.abs() >= _exact(values.dtype.type)).any())
    return values.dtype == object and any(isinstance(v, float | np.floating) and abs(v) >= _exact(type(v)) for v in values)


def _exact(kind: type[Any]) -> int:
    """Return the bound below which every int is a different float of that type."""
    return 2 ** (np.finfo(kind).nmant + 1)


def _ambiguous(name: str, kind: pa.DataType) -> str:
    return (
        f"column {name!r}: declared {kind}: ints were sent as floats that are too large to be exact (from {FLOAT_LIMIT} on, or "
        f"{_exact(np.float32)} as float32); if there are missing values, send them as text, or in pandas as Int64"
    )
