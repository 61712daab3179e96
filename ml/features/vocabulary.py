"""Frequency-limited dictionaries: value -> id, extended day by day and never renumbered.

A vocabulary's state after day d is one Parquet file (`STATE`): every value seen so far with its count and, once it has
one, its id. Ids of day d come from the state after an earlier day; how a value becomes a 64-bit key is
`ml.features.hashing`, and how a day's occurrences are counted in parallel is `ml.features.vocabulary_counts`.
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

# A state's order: ids ascending, then what waits for one, commonest first. New ids are given down this order.
STATE_ORDER = (("id", "ascending"), ("count", "descending"), ("value", "ascending"), ("key", "ascending"))


@dataclass(frozen=True)
class StateFile:
    """Where a state lies, how many values it holds, and the digest of its partition's manifest, which tells states apart."""

    path: str
    values: int
    digest: str


@dataclass(frozen=True)
class Vocabulary:
    """Keys that have an id. Id 0 is missing (key MISSING_ID), 1 is out of vocabulary, values begin at 2.

    slots, places: int64 [S], an open-addressing table; ids: int64 [V], of the key at each place; the last is OOV's.

    >>> words = Vocabulary.of(np.array([11, 12]), np.array([2, 3]))
    >>> words.lookup(np.array([12, 0, 99])).tolist()
    [3, 0, 1]
    """

    slots: np.ndarray
    places: np.ndarray
    ids: np.ndarray

    @classmethod
    def of(cls, keys: np.ndarray, ids: np.ndarray) -> Vocabulary:
        """keys: int64 [V], distinct, none of them MISSING_ID; ids: int64 [V], at least FIRST_ID."""
        slots = np.zeros(slots_for(len(keys)), np.int64)
        places = np.zeros(len(slots), np.int64)
        insert(slots, places, keys)
        return cls(slots, places, np.append(ids, OOV_ID).astype(np.int64, copy=False))

    @classmethod
    def empty(cls) -> Vocabulary:
        """Before the first day: every value is out of vocabulary."""
        return cls.of(np.zeros(0, np.int64), np.zeros(0, np.int64))

    @classmethod
    def from_state(cls, state: pa.Table) -> Vocabulary:
        known = state.select(["key", "id"]).filter(state["id"].is_valid()).combine_chunks()
        return cls.of(known["key"].to_numpy(), known["id"].to_numpy())

    @classmethod
    def read(cls, path: UPath) -> Vocabulary:
        """The vocabulary of a state file; values without an id are not even loaded."""
        state = ds.dataset(path.path, format="parquet", filesystem=path.fs)
        return cls.from_state(state.to_table(columns=["key", "id"], filter=pc.field("id").is_valid()))

    def __len__(self) -> int:
        return len(self.ids) - 1

    def lookup(self, keys: np.ndarray) -> np.ndarray:
        """Ids of keys (int64 [N], from `hash_values` or `combine`). int64 [N]."""
        ids = self.ids[find(self.slots, self.places, keys, len(self))]
        ids[keys == EMPTY] = MISSING_ID
        return ids


def merge_counts(previous: pa.Table | None, partial: Iterable[pa.Table]) -> pa.Table:
    """State (in `STATE_ORDER`, no new ids yet) of the previous day's state and today's partial counts together."""
    tables = [table.append_column("id", pa.nulls(len(table), pa.int64())).cast(STATE) for table in partial]
    merged = pa.concat_tables([*([previous] if previous is not None else []), *tables, STATE.empty_table()])
    grouped = merged.group_by("key").aggregate([("value", "min"), ("count", "sum"), ("id", "max")])
    state = grouped.rename_columns({"value_min": "value", "count_sum": "count", "id_max": "id"}).select(STATE.names).cast(STATE)
    return state.sort_by(list(STATE_ORDER))


def assign_ids(ordered: Iterable[pa.RecordBatch], limits: VocabularySpec) -> Iterator[pa.RecordBatch]:
    """Give ids to values that have come to `min_count`, in order, until `max_size`; those that have one keep it.

    ordered: batches of `STATE`, together in `STATE_ORDER`. The same rows come out, in the same order, which is still
    `STATE_ORDER`. Streams, so that a state need not fit in memory.
    """
    size = 0
    room = limits.max_size if limits.max_size is not None else np.iinfo(np.int64).max
    for batch in ordered:
        ids = batch["id"]
        waiting = ids.is_null().to_numpy(zero_copy_only=False)
        size += len(batch) - int(waiting.sum())
        common = waiting & (numbers(batch["count"]) >= limits.min_count)
        given = common & (np.cumsum(common) <= room - size)
        numbered = np.where(given, FIRST_ID - 1 + size + np.cumsum(given), numbers(ids))
        size += int(given.sum())
        yield batch.set_column(batch.schema.get_field_index("id"), STATE.field("id"), pa.array(numbered, mask=waiting & ~given))


def extend(previous: pa.Table | None, partial: Iterable[pa.Table], limits: VocabularySpec) -> pa.Table:
    """State after a day: of the state before it (None on the first day) and the day's partial counts (`COUNTS`)."""
    merged = merge_counts(previous, partial).combine_chunks()
    return pa.Table.from_batches(assign_ids(merged.to_batches(), limits), STATE)
