"""Columns of requests and items as batches of a model: one row of a request beside N items."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from ml.artifacts.bundle import Bundle
from ml.datasets.batch import Batch
from ml.schema import HISTORY_PREFIX
from ml.serving.faults import WrongColumn
from ml.serving.typed_values import typed_array


def table_of(row: Mapping[str, pa.Scalar]) -> pa.Table:
    """Return the columns of a request as a table of one row."""
    return pa.table({name: pa.repeat(value, 1) for name, value in row.items()})


def batch_of(ranking: Bundle, row: Mapping[str, pa.Scalar], items: pa.Table) -> Batch:
    """Make a batch of N candidates from the columns of the request and from those of the items."""
    count, columns = items.num_rows, {}
    for name, kind in ranking.columns.items():
        if name in items.column_names:
            held = items[name].combine_chunks()
            columns[name] = held if name.startswith(HISTORY_PREFIX) else held.cast(kind)  # histories are lists of ids
        else:
            columns[name] = pa.repeat(row[name], count)
    return ranking.batch(pa.RecordBatch.from_pydict(columns))


def scalar(what: str, value: Any, kind: pa.DataType) -> pa.Scalar:
    """Return a value of a request in the type of its column. Raises `WrongColumn`, which says what it is."""
    try:
        return typed_array([value], kind)[0]
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError, ValueError, OverflowError) as error:
        raise WrongColumn(f"{what}: expected {kind}, found {value!r:.80}") from error
