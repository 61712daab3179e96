"""Rows of a log as events: the words that the store keeps of each row, grouped by entity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ml.catalog.reading import ColumnType
from ml.features.buffers import flat
from ml.features.columns import plain
from ml.features.hashing import hash_values
from ml.features.online_store.plan import Series
from ml.features.online_store.snapshot import MISSING_WORD
from ml.features.point_in_time.values import rate_numbers
from ml.schema import ARROW_TYPES, MISSING_ID

_TEXT = "online store"


@dataclass(frozen=True)
class Events:
    """E events of a series, grouped by entity, in time order within an entity.

    Attributes:
        ids: int64 [G], keys of the entities, ascending.
        starts: int64 [G + 1], where the events of each entity start.
        times: int64 [E].
        columns: int64 [C, E], words of the columns: first those that are summed, as float64.
        order: int64 [E], index of each event in the arrays that they were made from.
    """

    ids: np.ndarray
    starts: np.ndarray
    times: np.ndarray
    columns: np.ndarray
    order: np.ndarray

    @classmethod
    def of(cls, ids: np.ndarray, times: np.ndarray, columns: np.ndarray) -> Events:
        """Group events. Those without a key (0) are left out.

        Args:
            ids: int64 [N], keys of entities.
            times: int64 [N].
            columns: int64 [C, N].
        """
        order = np.lexsort((times, ids))
        order = order[ids[order] != MISSING_ID]
        ids = ids[order]
        edges = np.flatnonzero(np.diff(ids, prepend=ids[:1] - 1)) if len(ids) else np.zeros(0, np.int64)
        return cls(ids[edges], np.append(edges, len(ids)), times[order], np.ascontiguousarray(columns[:, order]), order)


def array(rows: pa.Table, name: str) -> pa.Array:
    """Return a column as one array, without a dictionary."""
    return plain(rows[name].combine_chunks())


def words_of(rows: pa.Table, series: Series) -> np.ndarray:
    """Return the words of a series' columns, int64 [C, N]."""
    columns = [rate_numbers(array(rows, of.column), of.at_least).view(np.int64) for of in series.sums]
    columns += [value_words(array(rows, name)) for name in series.values]
    return np.stack(columns) if columns else np.zeros((0, len(rows)), np.int64)


def value_words(values: pa.Array) -> np.ndarray:
    """Return one word for each value, int64 [N]: numbers as they are, texts as their hashes."""
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        ids = hash_values(_TEXT, values)
        return np.where(ids == MISSING_ID, MISSING_WORD, ids)
    if pa.types.is_floating(values.type):
        numbers = flat(values.cast(pa.float64()), null=np.nan) + 0.0
        return np.where(np.isnan(numbers), MISSING_WORD, numbers.view(np.int64))
    return flat(values.cast(pa.int64()), null=MISSING_WORD)


def values_of(words: np.ndarray, kind: ColumnType) -> pa.Array:
    """Return the numbers of words, as `value_words` gives them."""
    if kind == "float":
        return pa.array(words.view(np.float64)).cast(ARROW_TYPES[kind])
    return pa.array(words).cast(ARROW_TYPES[kind])
