"""Columns of a record batch by name and declared type: the one place where a batch is checked against a spec."""

from __future__ import annotations

import pyarrow as pa

from ml.catalog.spec import ColumnType
from ml.schema import ARROW_TYPES


def take_column(batch: pa.RecordBatch, name: str, declared: ColumnType) -> pa.Array:
    """A column in its declared type, [N]; a dictionary of that type stays one. Raises `KeyError` and `TypeError`, naming it."""
    position = batch.schema.get_field_index(name)
    if position < 0:
        raise KeyError(f"no column {name!r} in the batch; it has {batch.schema.names}")
    column = batch.column(position)
    wanted = ARROW_TYPES[declared]
    held = column.type.value_type if isinstance(column, pa.DictionaryArray) else column.type
    if held.equals(wanted):
        return column
    try:
        return column.cast(wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise TypeError(f"column {name!r}: declared {declared}, found {column.type}: {error}") from error


def plain(column: pa.Array) -> pa.Array:
    """The column without its dictionary, if it had one."""
    return column.dictionary_decode() if isinstance(column, pa.DictionaryArray) else column
