"""Rows in memory as a few arrays, and blocks of rows as MDS samples. This module opens no file.

The arrays are row-major (dense [n, D], single-valued ids [n, F1]). Measured on 65,536 rows of Criteo, this layout takes
77 bytes per row and gathers scattered rows twice as fast as a layout by feature, which takes 84 bytes. `ml.datasets.collate`
turns rows into the tensors of a batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ml.schema import EVENT_TIME, LABEL, SAMPLE_RATE, SAMPLE_WEIGHT, FeatureSchema

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Rows:
    """n rows with D dense, F1 single-valued and F2 multi-valued features. The fields are the columns of an MDS sample.

    Attributes:
        dense: float32 [n, D].
        single: int64 [n, F1], ids.
        multi_lengths: int32 [n, F2], number of ids.
        multi_values: int64 [multi_lengths.sum()], ids by row, and within a row by feature.
        label: float32 [n].
        sample_rate: float32 [n].
        event_time: int64 [n], microseconds since 1970-01-01 UTC.
        position: int64 [n], position of the row in its day.
        further: float32 [n, L - 1], further labels; L = 1 in a dataset with one label.
        weight: float32 [n, W], sample weights; W = 0 in a dataset without, otherwise 1.

    Example:
        >>> none = np.zeros((3, 0))
        >>> ones = np.ones(3, np.float32)
        >>> order = np.arange(3)
        >>> rows = Rows(none, np.array([[7], [8], [9]]), none.astype(np.int32), order[:0], ones, ones, order, order, none, none)
        >>> rows.take(np.array([2, 0])).single.tolist()
        [[9], [7]]
    """

    dense: npt.NDArray[np.float32]
    single: npt.NDArray[np.int64]
    multi_lengths: npt.NDArray[np.int32]
    multi_values: npt.NDArray[np.int64]
    label: npt.NDArray[np.float32]
    sample_rate: npt.NDArray[np.float32]
    event_time: npt.NDArray[np.int64]
    position: npt.NDArray[np.int64]
    further: npt.NDArray[np.float32]
    weight: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return self.label.size

    @cached_property
    def _runs(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Returns the end and the length of each row's part of `multi_values`, int64 [n] each."""
        lengths = self.multi_lengths.sum(axis=1, dtype=np.int64)
        return np.cumsum(lengths), lengths

    def take(self, index: npt.NDArray[np.int64]) -> Self:
        """Returns a copy of the rows at some indices (int64 [M]), in the order of the indices."""
        taken = {f.name: getattr(self, f.name).take(index, axis=0) for f in fields(self) if f.name != "multi_values"}
        ends, lengths = self._runs
        return type(self)(**taken, multi_values=gather_runs(self.multi_values, ends[index] - lengths[index], lengths[index]))

    def between(self, begin: int, end: int) -> Self:
        """Returns the rows `[begin, end)` as views."""
        ends, lengths = self._runs
        first, last = (0, 0) if begin >= end else (int(ends[begin] - lengths[begin]), int(ends[end - 1]))
        parts = {f.name: getattr(self, f.name)[begin:end] for f in fields(self) if f.name != "multi_values"}
        return type(self)(**parts, multi_values=self.multi_values[first:last])

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """Returns the rows of all parts, in order."""
        return cls(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)})

    def blocks(self, block_rows: int) -> Iterable[dict[str, Array]]:
        """Yields MDS samples of `block_rows` rows; the last may have fewer. Columns of width 0 are left out."""
        for lo in range(0, len(self), block_rows):
            block = self.between(lo, min(lo + block_rows, len(self)))
            sample = {f.name: getattr(block, f.name) for f in fields(self)}
            yield {name: array for name, array in sample.items() if array.size}

    @classmethod
    def from_bytes(cls, columns: Mapping[str, npt.NDArray[np.uint8]], schema: FeatureSchema) -> Self:
        """Returns rows that are views of bytes.

        Args:
            columns: uint8 bytes of each column of `mds_columns(schema)`, with the blocks one after the other.
            schema: Names of the features.
        """
        widths = _widths(schema)
        none = np.empty(0, np.uint8)
        rows = columns[LABEL].size // np.dtype(np.float32).itemsize
        arrays = {name: columns.get(name, none).view(dtype) for name, dtype in _DTYPES.items()}
        return cls(**{name: a.reshape(rows, widths[name]) if name in widths else a for name, a in arrays.items()})

    @classmethod
    def from_table(cls, table: pa.Table, schema: FeatureSchema, start: int = 0) -> Self:
        """Returns the rows of a feature table.

        Args:
            table: n rows.
            schema: Names of the features.
            start: Position of the first row in its day.

        Raises:
            ValueError: A column is missing, has another type or has nulls, or a list is empty. The message names the column.
        """
        return cls(
            **features_from_table(table, schema),
            label=column_from_table(table, LABEL, pa.float32()),
            sample_rate=column_from_table(table, SAMPLE_RATE, pa.float32()),
            event_time=column_from_table(table, EVENT_TIME, pa.int64()),
            position=np.arange(start, start + table.num_rows, dtype=np.int64),
            further=_stack(table, schema.further_columns, pa.float32()),
            weight=_stack(table, (SAMPLE_WEIGHT,) if schema.weighted else (), pa.float32()),
        )


_DTYPES: dict[str, Any] = {
    "dense": np.float32,
    "single": np.int64,
    "multi_lengths": np.int32,
    "multi_values": np.int64,
    LABEL: np.float32,
    SAMPLE_RATE: np.float32,
    EVENT_TIME: np.int64,
    "position": np.int64,
    "further": np.float32,
    "weight": np.float32,
}


def _widths(schema: FeatureSchema) -> dict[str, int]:
    widths = {"dense": len(schema.dense), "single": len(schema.single), "multi_lengths": len(schema.multi)}
    return widths | {"further": len(schema.labels) - 1, "weight": int(schema.weighted)}


def mds_columns(schema: FeatureSchema) -> dict[str, str]:
    """Returns the encoding of each MDS column of a block, by name, in the order of MDS (sorted by name)."""
    widths = _widths(schema) | {"multi_values": len(schema.multi)}
    return {name: f"ndarray:{np.dtype(_DTYPES[name]).name}" for name in sorted(_DTYPES) if widths.get(name, 1)}


def gather_runs(values: Array, starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.integer]) -> Array:
    """Concatenates the runs `values[s : s + n]` of all starts s and lengths n."""
    ends = np.cumsum(lengths, dtype=np.int64)
    total = int(ends[-1]) if ends.size else 0
    return values.take(np.arange(total) + np.repeat(starts - (ends - lengths), lengths))


def features_from_table(table: pa.Table, schema: FeatureSchema) -> dict[str, Array]:
    """Returns the fields `dense`, `single`, `multi_lengths` and `multi_values` of `Rows` for a feature table."""
    lengths, values = _lists(table, schema.multi)
    return {
        "dense": _stack(table, schema.dense, pa.float32()),
        "single": _stack(table, schema.single, pa.int64()),
        "multi_lengths": lengths,
        "multi_values": values,
    }


def column_from_table(table: pa.Table, name: str, dtype: pa.DataType) -> Array:
    """Returns a column [n] of a feature table. Raises `ValueError` if it is missing, has another type or has nulls."""
    return _checked(table, name, dtype).to_numpy()


def _checked(table: pa.Table, name: str, dtype: pa.DataType) -> pa.Array:
    if name not in table.schema.names:
        raise ValueError(f"column {name!r} is not in the table; it has {table.schema.names}")
    found = table.schema.field(name).type
    if found != dtype:
        raise ValueError(f"column {name!r} is {found}, expected {dtype}")
    column = table.column(name).combine_chunks()
    if column.null_count:
        raise ValueError(f"column {name!r} has {column.null_count} nulls; a feature table has none")
    return column


def _stack(table: pa.Table, names: Sequence[str], dtype: pa.DataType) -> Array:
    out = np.empty((table.num_rows, len(names)), dtype.to_pandas_dtype())
    for i, name in enumerate(names):
        out[:, i] = column_from_table(table, name, dtype)
    return out


def _lists(table: pa.Table, names: Sequence[str]) -> tuple[Array, Array]:
    """Returns the lengths (int32 [n, F2]) and the values, by row and then by column, of list columns."""
    lengths = np.empty((table.num_rows, len(names)), np.int32)
    starts = np.empty((table.num_rows, len(names)), np.int64)
    values, before = [np.empty(0, np.int64)], 0
    for i, name in enumerate(names):
        column = _checked(table, name, pa.list_(pa.int64()))
        flat, lengths[:, i] = column.flatten(), column.value_lengths().to_numpy()
        if flat.null_count or (lengths[:, i] == 0).any():
            raise ValueError(f"column {name!r} has a null in a list, or an empty list; a missing value is [MISSING_ID]")
        starts[:, i] = before + np.cumsum(lengths[:, i], dtype=np.int64) - lengths[:, i]
        values.append(flat.to_numpy())
        before += len(flat)
    return lengths, gather_runs(np.concatenate(values), starts.ravel(), lengths.ravel())
