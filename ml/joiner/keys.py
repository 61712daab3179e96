"""Keys of impressions and actions as numbers, and the order of rows.

(key, time) pairs sort as one int64. Partitions of keys are by hash. Rows of the same instant are ordered by their values.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute creates its functions at import, so type checkers do not see them)

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ml.features.hashing import combine, hash_values
from ml.schema import EVENT_TIME


@dataclass(frozen=True)
class KeyCodes:
    """Rows of several tables as int64 numbers that sort by key, then by time.

    Attributes:
        positions: For each table, the number of each row, int64 [N].
        span: Numbers per key.
        start: Time of the first number of a key, in microseconds since 1970 UTC, if `times` is empty.
        times: Sorted distinct times, if keys and times are too many for one int64; empty otherwise.
    """

    positions: tuple[NDArray[np.int64], ...]
    span: int
    start: int
    times: NDArray[np.int64]

    @classmethod
    def of(cls, tables: Sequence[pa.Table], key: Sequence[str]) -> KeyCodes:
        """Numbers the rows of tables.

        Args:
            tables: Tables with the columns of the key, without missing values, and `event_time`.
            key: Columns that together are the key.
        """
        lengths = [len(table) for table in tables]
        code = np.zeros(sum(lengths), np.int64)
        for column in key:
            values = pa.chunked_array([chunk for table in tables for chunk in table[column].chunks], tables[0][column].type)
            codes = _dictionary_codes(values)
            code = codes if column == key[0] else _dictionary_codes(pa.array(code * (int(codes.max(initial=0)) + 1) + codes))
        times = np.concatenate([event_times(table) for table in tables]) if tables else np.zeros(0, np.int64)
        start, stop = int(times.min(initial=2**62)), int(times.max(initial=-(2**62)))
        start = min(start, stop)
        span, distinct = stop - start + 1, np.zeros(0, np.int64)
        if span * (int(code.max(initial=0)) + 1) >= 2**63:
            distinct, times = np.unique(times, return_inverse=True)
            start, span = 0, len(distinct)
        numbers = code * span + (times - start)
        return cls(tuple(np.split(numbers, np.cumsum(lengths)[:-1])), span, start, distinct)

    def split(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Returns the codes of keys and the times of numbers."""
        code, at = np.divmod(numbers, max(self.span, 1))
        return code, self.times[at] if len(self.times) else at + self.start


def _dictionary_codes(values: pa.ChunkedArray | pa.Array) -> NDArray[np.int64]:
    """A number for each value, equal for equal values, int64 [N]."""
    encoded = values.combine_chunks().dictionary_encode() if isinstance(values, pa.ChunkedArray) else values.dictionary_encode()
    return encoded.indices.to_numpy().astype(np.int64)


def event_times(table: pa.Table) -> NDArray[np.int64]:
    """Event times of rows, int64 [N], in microseconds since 1970 UTC."""
    return table[EVENT_TIME].to_numpy()


def order_by(table: pa.Table, rank: NDArray[np.int64], rows: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """Returns rows in the order of their rank, and those of equal rank in the order of their values, int64 [R].

    Values are compared column by column, missing ones last. Arrow cannot compare lists, so their JSON text is compared.

    Args:
        table: Rows of one of the two logs, [N].
        rank: Rank of each row, such as its time, int64 [N].
        rows: Numbers of the rows to order, int64 [R]; by default all.
    """
    rows = np.arange(len(table)) if rows is None else rows
    rows = rows[np.argsort(rank[rows], kind="stable")]
    equal = np.flatnonzero(rank[rows][1:] == rank[rows][:-1])
    if not len(equal):
        return rows
    places = np.union1d(equal, equal + 1)
    tied = rows[places]
    columns = [rank[tied], *map(_comparable, table.take(pa.array(tied)).columns)]
    names = [str(n) for n in range(len(columns))]
    order = pc.sort_indices(pa.table(columns, names), sort_keys=[(name, "ascending") for name in names])
    rows[places] = tied[order.to_numpy()]
    return rows


def _comparable(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    if not pa.types.is_nested(column.type):
        return column
    return pa.array([None if value is None else json.dumps(value) for value in column.to_pylist()], pa.string())


def without_nulls(table: pa.Table, key: Sequence[str]) -> tuple[pa.Table, int]:
    """Returns the rows in which no column of the key is missing, and the number of the others."""
    if not any(table[column].null_count for column in key):
        return table.combine_chunks(), 0
    whole = np.ones(len(table), bool)
    for column in key:
        whole &= pc.is_valid(table[column]).to_numpy()
    found = table.filter(pa.array(whole)).combine_chunks()
    return found, len(table) - len(found)


def partition_of(table: pa.Table, key: Sequence[str], partitions: int) -> NDArray[np.int64]:
    """Returns the partition of each row by the hash of its key, int64 [N]. Rows of one key are in one partition.

    Args:
        table: Rows of impressions or of actions.
        key: Columns that together are the key.
        partitions: Number of partitions.
    """
    ids = combine(*(hash_values("key", table[column].combine_chunks()) for column in key))
    return (ids.view(np.uint64) % np.uint64(partitions)).astype(np.int64)
