"""Sparse features: 64-bit keys of columns, one or several per row, and the text of the value behind a key.

A key is the hash of (feature, value), or a number for buckets and hours. If the feature has no vocabulary, the key is the id.
Dictionaries of ids are in `ml.features.vocabulary`.
"""

from __future__ import annotations

from dataclasses import dataclass
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ml.catalog.spec import ColumnType, DatasetSpec, SparseColumn
from ml.compute.kernel_cache import jit
from ml.features.buffers import flat, string_bytes, validity
from ml.features.columns import plain, take_column
from ml.features.hashing import combine, feature_seed, hash_ranges, hash_values
from ml.schema import EVENT_TIME, FIRST_ID, HISTORY_PREFIX, MISSING_ID

CROSS_JOINER = " × "


@dataclass(frozen=True)
class Keys:
    """Keys of N rows.

    Attributes:
        values: int64 [V].
        offsets: int32 [N + 1] into `values`, or None if each row has exactly one key.
    """

    values: np.ndarray
    offsets: np.ndarray | None = None

    @property
    def lengths(self) -> np.ndarray:
        """Number of keys of each row, int32 [N]."""
        return np.diff(self.offsets) if self.offsets is not None else np.ones(len(self.values), np.int32)

    def to_arrow(self, ids: np.ndarray) -> pa.Array:
        """Returns ids (int64 [V], one per key) as an Arrow column [N] of int64, or of list<int64> if there are offsets."""
        if self.offsets is None:
            return pa.array(ids)
        return pa.ListArray.from_arrays(pa.array(self.offsets), pa.array(ids))


@jit
def _part_ranges(  # type: ignore[no-untyped-def]
    data: np.ndarray, offsets: np.ndarray, valid: np.ndarray, separator: np.ndarray, most: int, count_only: bool, total: int
):
    # Called twice: first to count the parts, then to write them. A row without parts gets one part with start and end -1.
    starts, ends = np.empty(total, np.int64), np.empty(total, np.int64)
    rows = np.empty(len(offsets), np.int32)
    width, n = len(separator), 0
    for i in range(len(offsets) - 1):
        rows[i] = n
        begin, stop, parts = offsets[i], offsets[i + 1], 0
        if len(valid) == 0 or valid[i]:
            at = begin
            while at <= stop and parts < most:
                is_end = at == stop
                is_separator = at + width <= stop
                for j in range(width):
                    if is_separator and data[at + j] != separator[j]:
                        is_separator = False
                if is_end or is_separator:
                    if at > begin:
                        if not count_only:
                            starts[n], ends[n] = begin, at
                        n += 1
                        parts += 1
                    at += width
                    begin = at
                else:
                    at += 1
        if parts == 0:
            if not count_only:
                starts[n], ends[n] = -1, -1
            n += 1
    rows[-1] = n
    return rows, starts, ends


def split_texts(texts: pa.Array, separator: str) -> pa.ListArray:
    """Splits texts [N] into lists of values [N]. An empty part is null, and a missing text has an empty list."""
    parts = pc.call_function("split_pattern", [texts], pc.SplitPatternOptions(separator))
    known = pc.call_function("if_else", [pc.call_function("not_equal", [parts.flatten(), ""]), parts.flatten(), None])
    lengths = parts.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    return pa.ListArray.from_arrays(pa.array(np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)), known)


def _elements(column: SparseColumn, lists: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Returns the values that a feature keeps of lists [N], and their offsets, int32 [N + 1].

    Missing elements are dropped. A row without values has one that is missing.
    """
    rows = len(lists)
    lengths = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    flat = lists.flatten()
    at = np.flatnonzero(flat.is_valid().to_numpy(zero_copy_only=False))  # places of the values, [V]
    row = np.repeat(np.arange(rows), lengths)[at]
    counts = np.bincount(row, minlength=rows)
    rank = np.arange(len(at)) - (np.cumsum(counts) - counts)[row]  # of each value in its row, from 0
    if column.keep == "last":
        rank -= np.maximum(counts - column.max_values, 0)[row]
    kept = (rank >= 0) & (rank < column.max_values)
    counts = np.minimum(counts, column.max_values)
    offsets = np.concatenate(([0], np.cumsum(np.maximum(counts, 1)))).astype(np.int32)
    places = np.full(offsets[-1], -1, np.int64)
    places[offsets[row[kept]] + rank[kept]] = at[kept]
    return flat.take(pa.array(places, mask=places < 0)), offsets


def _parts(column: SparseColumn, values: pa.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns bytes, list offsets [N + 1], and the start and end of each part [V], without empty parts."""
    data, offsets = string_bytes(values)
    separator = np.frombuffer((column.split or "").encode(), np.uint8)
    valid = validity(values)
    rows, _, _ = _part_ranges(data, offsets, valid, separator, column.max_values, True, 0)
    _, starts, ends = _part_ranges(data, offsets, valid, separator, column.max_values, False, int(rows[-1]))
    return data, rows, starts, ends


def _buckets(edges: tuple[float, ...], values: pa.Array) -> pa.Array:
    """Returns the index of each number's bucket, 0 to len(edges). A number equal to an edge belongs to the bucket above it.

    NaN and infinities are missing.
    """
    wide = values.cast(pa.int64()).cast(pa.float64(), safe=False) if not pa.types.is_floating(values.type) else values
    numbers = flat(wide, null=np.nan)
    return pa.array(np.searchsorted(np.array(edges), numbers, side="right"), mask=~np.isfinite(numbers))


def _numbered(values: pa.Array) -> np.ndarray:
    """Returns int64 ids of values that are numbered from 0: the number plus FIRST_ID, or MISSING_ID for null."""
    return flat(values.cast(pa.int64()), null=MISSING_ID - FIRST_ID) + FIRST_ID


def _history(batch: pa.RecordBatch, name: str) -> Keys:
    """Returns the ids of each row's history. Without earlier items, or without the column, a row has the key MISSING_ID."""
    if name not in batch.schema.names:
        return Keys(np.full(len(batch), MISSING_ID, np.int64), np.arange(len(batch) + 1, dtype=np.int32))
    column = batch[name]
    lengths = column.value_lengths().to_numpy(zero_copy_only=False)
    offsets = np.concatenate(([0], np.cumsum(np.maximum(lengths, 1)))).astype(np.int32)
    values = np.full(offsets[-1], MISSING_ID, np.int64)
    values[np.repeat(lengths > 0, np.maximum(lengths, 1))] = column.flatten().to_numpy()
    return Keys(values, offsets)


@dataclass(frozen=True)
class SparseFeature:
    """Computes the keys of one sparse feature.

    Args:
        column: The feature as the catalog entry declares it.
        types: Declared types of the log's and the joined columns.
        zone: Time zone of the log.

    Example:
        >>> feature = SparseFeature(SparseColumn(name="country"), {"country": "string"}, ZoneInfo("UTC"))
        >>> feature.keys(pa.record_batch({"country": ["BR", None]})).values.tolist()
        [-1260132001662114571, 0]
    """

    column: SparseColumn
    types: dict[str, ColumnType]
    zone: ZoneInfo

    @property
    def is_multi_valued(self) -> bool:
        """Whether a row has any number of keys."""
        return self.column.is_multi_valued(self.types)

    @property
    def seed(self) -> str:
        """Name of the feature whose ids this one has: its own, or that of `ids_of`."""
        return self.column.ids_of or self.column.name

    def _lists(self, batch: pa.RecordBatch) -> pa.Array | None:
        """Returns the lists of values [N]; None if a row has a single value, or a text that the compiled pass splits."""
        name = self.column.column
        if name is None or not self.is_multi_valued:
            return None
        values = take_column(batch, name, self.types[name])
        if not self.column.split:
            return values
        if self.column.keep == "first":
            return None
        return split_texts(plain(values), self.column.split)

    def _value(self, batch: pa.RecordBatch) -> pa.Array:
        """Returns the value that the key is computed from: the column's value, its bucket, or the hour of the event."""
        if self.column.hour_of_day:
            time = take_column(batch, EVENT_TIME, "int").cast(pa.timestamp("us", self.zone.key))
            return pc.call_function("hour", [time])
        name = self.column.inputs[0]
        values = take_column(batch, name, self.types[name])
        return _buckets(self.column.bucketise, values) if self.column.bucketise else values

    def keys(self, batch: pa.RecordBatch) -> Keys:
        """Computes the keys of a batch.

        Args:
            batch: N rows.

        Returns:
            The keys of the rows; MISSING_ID if the value, or any part of a cross, is missing.

        Raises:
            KeyError: A column is missing.
            TypeError: A column cannot be read in its declared type.
        """
        name = self.column.name
        if self.column.history:
            return _history(batch, HISTORY_PREFIX + name)
        if self.column.cross:
            parts = (hash_values(name, take_column(batch, c, self.types[c])) for c in self.column.cross)
            return Keys(combine(*parts))
        if (lists := self._lists(batch)) is not None:
            values, offsets = _elements(self.column, lists)
            return Keys(hash_values(self.seed, values), offsets)
        value = self._value(batch)
        if self.column.bucketise or self.column.hour_of_day:
            return Keys(_numbered(value))
        if not self.column.split:
            return Keys(hash_values(self.seed, value))
        data, rows, starts, ends = _parts(self.column, plain(value))
        return Keys(hash_ranges(data, starts, ends, starts >= 0, feature_seed(self.seed)), rows)

    def words(self, batch: pa.RecordBatch, positions: np.ndarray) -> pa.Array:
        """Returns the values behind some keys as text.

        Args:
            batch: N rows.
            positions: int64 [P], positions in `keys(batch).values`.

        Returns:
            Arrow strings [P]. The parts of a cross are joined by `CROSS_JOINER`; a history gives ids.
        """
        at = pa.array(positions)
        if self.column.history:
            return pa.array(self.keys(batch).values[positions]).cast(pa.string())
        if self.column.cross:
            texts = [take_column(batch, c, self.types[c]).take(at) for c in self.column.cross]
            strings = [plain(text).cast(pa.string()) for text in texts]
            return pc.call_function("binary_join_element_wise", [*strings, pa.scalar(CROSS_JOINER)])
        if (lists := self._lists(batch)) is not None:
            return _elements(self.column, lists)[0].take(at).cast(pa.string())
        value = self._value(batch)
        if not self.column.split:
            return plain(value.take(at)).cast(pa.string())
        data, _, starts, ends = _parts(self.column, plain(value))
        return _copy_ranges(data, starts[positions], ends[positions])


def sparse_features(spec: DatasetSpec) -> dict[str, SparseFeature]:
    """Returns the sparse features of a dataset by name."""
    types, zone = spec.column_types, spec.zone
    return {s.name: SparseFeature(s, types, zone) for s in spec.sparse}


def _copy_ranges(data: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> pa.Array:
    offsets = np.concatenate(([0], np.cumsum(ends - starts)))
    place = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - starts, ends - starts)
    chars = pa.py_buffer(data[place])
    return pa.LargeStringArray.from_buffers(len(starts), pa.py_buffer(offsets), chars).cast(pa.string())
