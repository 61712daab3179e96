"""Columns of a record batch by name and declared type. Only this module checks a batch against the types of a spec."""

from __future__ import annotations

import pyarrow as pa

from ml.catalog.spec import ColumnType
from ml.schema import ARROW_TYPES


def take_column(batch: pa.RecordBatch, name: str, declared: ColumnType) -> pa.Array:
    """Returns a column of a batch in its declared type.

    Args:
        batch: N rows.
        name: Name of the column.
        declared: Type that the catalog entry declares for it.

    Returns:
        An Arrow array [N] of the declared type. A dictionary-encoded column of that type stays dictionary encoded.

    Raises:
        KeyError: The batch has no such column.
        TypeError: The column cannot be cast to the declared type.
    """
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
    """Decodes a dictionary-encoded column; returns any other column as it is."""
    return column.dictionary_decode() if isinstance(column, pa.DictionaryArray) else column
