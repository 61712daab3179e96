"""Vocabularies: dictionaries from value to id, limited by frequency, extended every day and never renumbered.

The state of a vocabulary after a day is one Parquet file (`STATE`). It holds every value seen so far, its count, and its id
if it has one. The rows of a day get their ids from the state after the day before. `ml.features.hashing` computes the 64-bit
key of a value, and `ml.features.vocabulary_counts` counts the occurrences of a day in parallel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from upath import UPath

from ml.catalog.spec import VocabularySpec
from ml.features.buffers import numbers
from ml.features.hashtable import EMPTY, find, insert, slots_for
from ml.schema import FIRST_ID, MISSING_ID, OOV_ID

COUNTS = pa.schema([("key", pa.int64()), ("value", pa.string()), ("count", pa.int64())])
STATE = pa.schema([*COUNTS, ("id", pa.int64())])

# The order of a state: by ascending id, then values without an id, the most frequent first. New ids are assigned in this order.
STATE_ORDER = (("id", "ascending"), ("count", "descending"), ("value", "ascending"), ("key", "ascending"))


@dataclass(frozen=True)
class StateFile:
    """A stored state of a vocabulary.

    Attributes:
        path: The Parquet file.
        values: Number of values in it.
        digest: Digest of the manifest of its partition, which identifies the version of the state.
    """

    path: str
    values: int
    digest: str


@dataclass(frozen=True)
class Vocabulary:
    """The V keys that have an id. Id 0 means missing (key MISSING_ID), id 1 out of vocabulary; ids of values start at 2.

    Attributes:
        slots: int64 [S], the keys in an open-addressing hash table.
        places: int64 [S], the index in `ids` of the key in each slot.
        ids: int64 [V + 1], the ids of the keys, then OOV_ID.

    Example:
        >>> words = Vocabulary.of(np.array([11, 12]), np.array([2, 3]))
        >>> words.lookup(np.array([12, 0, 99])).tolist()
        [3, 0, 1]
    """

    slots: np.ndarray
    places: np.ndarray
    ids: np.ndarray

    @classmethod
    def of(cls, keys: np.ndarray, ids: np.ndarray) -> Vocabulary:
        """Builds a vocabulary.

        Args:
            keys: int64 [V], distinct, without MISSING_ID.
            ids: int64 [V], at least FIRST_ID.
        """
        slots = np.zeros(slots_for(len(keys)), np.int64)
        places = np.zeros(len(slots), np.int64)
        insert(slots, places, keys)
        return cls(slots, places, np.append(ids, OOV_ID).astype(np.int64, copy=False))

    @classmethod
    def empty(cls) -> Vocabulary:
        """Returns the vocabulary before the first day, in which every value is out of vocabulary."""
        return cls.of(np.zeros(0, np.int64), np.zeros(0, np.int64))

    @classmethod
    def from_state(cls, state: pa.Table) -> Vocabulary:
        """Returns the vocabulary of a state (`STATE`)."""
        known = state.select(["key", "id"]).filter(state["id"].is_valid()).combine_chunks()
        return cls.of(known["key"].to_numpy(), known["id"].to_numpy())

    @classmethod
    def read(cls, path: UPath) -> Vocabulary:
        """Reads the vocabulary of a state file. Values without an id are not loaded."""
        state = ds.dataset(path.path, format="parquet", filesystem=path.fs)
        return cls.from_state(state.to_table(columns=["key", "id"], filter=pc.field("id").is_valid()))

    def __len__(self) -> int:
        return len(self.ids) - 1

    def lookup(self, keys: np.ndarray) -> np.ndarray:
        """Returns the ids (int64 [N]) of keys (int64 [N], from `hash_values` or `combine`)."""
        ids = self.ids[find(self.slots, self.places, keys, len(self))]
        ids[keys == EMPTY] = MISSING_ID
        return ids


def merge_counts(previous: pa.Table | None, partial: Iterable[pa.Table]) -> pa.Table:
    """Adds a day's counts to the state before it.

    Args:
        previous: State before the day; None on the first day.
        partial: Counts of the day's tasks (`COUNTS`).

    Returns:
        The merged state, in `STATE_ORDER`, without new ids.
    """
    tables = [table.append_column("id", pa.nulls(len(table), pa.int64())).cast(STATE) for table in partial]
    merged = pa.concat_tables([*([previous] if previous is not None else []), *tables, STATE.empty_table()])
    grouped = merged.group_by("key").aggregate([("value", "min"), ("count", "sum"), ("id", "max")])
    state = grouped.rename_columns({"value_min": "value", "count_sum": "count", "id_max": "id"}).select(STATE.names).cast(STATE)
    return state.sort_by(list(STATE_ORDER))


def assign_ids(ordered: Iterable[pa.RecordBatch], limits: VocabularySpec) -> Iterator[pa.RecordBatch]:
    """Assigns ids, in order, to values that have reached `min_count`, up to `max_size` ids. Existing ids do not change.

    The batches are streamed, so that a state need not fit in memory.

    Args:
        ordered: Batches of `STATE` whose rows together are in `STATE_ORDER`.
        limits: `min_count` and `max_size` of the vocabulary.

    Yields:
        The same rows with their ids, in the same order, which is still `STATE_ORDER`.
    """
    size = 0
    room = limits.max_size if limits.max_size is not None else np.iinfo(np.int64).max
    for batch in ordered:
        ids = batch["id"]
        without_id = ids.is_null().to_numpy(zero_copy_only=False)
        size += len(batch) - int(without_id.sum())
        frequent = without_id & (numbers(batch["count"]) >= limits.min_count)
        given = frequent & (np.cumsum(frequent) <= room - size)
        numbered = np.where(given, FIRST_ID - 1 + size + np.cumsum(given), numbers(ids))
        size += int(given.sum())
        new_ids = pa.array(numbered, mask=without_id & ~given)
        yield batch.set_column(batch.schema.get_field_index("id"), STATE.field("id"), new_ids)


def extend(previous: pa.Table | None, partial: Iterable[pa.Table], limits: VocabularySpec) -> pa.Table:
    """Computes the state of a vocabulary after a day.

    Args:
        previous: State before the day; None on the first day.
        partial: Counts of the day's tasks (`COUNTS`).
        limits: `min_count` and `max_size` of the vocabulary.

    Returns:
        The state (`STATE`), in `STATE_ORDER`.
    """
    merged = merge_counts(previous, partial).combine_chunks()
    return pa.Table.from_batches(assign_ids(merged.to_batches(), limits), STATE)
