"""The hash map equals a dictionary, even if clusters of keys wrap around, and after it has grown in place."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.embeddings.collisionless.hash_map import EMPTY, HashMap, erase_one, find_one, insert_one, rehash, slots_for

KEYS = st.tuples(st.integers(0, 2), st.integers(-(2**63), 2**63 - 1))


@settings(max_examples=300, deadline=None)
@given(st.lists(KEYS, unique=True, min_size=1, max_size=7), st.integers(0, 3), st.integers(0, 2**20))
def test_keys_are_found_after_slots_were_doubled(keys: list[tuple[int, int]], doublings: int, seed: int) -> None:
    """The map has eight slots, so that clusters are long."""
    slots = np.full((8, 2), EMPTY, np.int64)
    for row, (table, key) in enumerate(keys):
        insert_one(slots, table, key, row)
    gone = set(np.random.default_rng(seed).choice(len(keys), len(keys) // 3, replace=False).tolist())
    for row in gone:
        assert erase_one(slots, *keys[row])
    for _ in range(doublings):
        slots = np.concatenate([slots, np.full_like(slots, EMPTY)])
        rehash(slots)
        found = [find_one(slots, table, key) for table, key in keys]
        assert found == [EMPTY if row in gone else row for row in range(len(keys))]
        assert int((slots[:, 1] != EMPTY).sum()) == len(keys) - len(gone)


def test_a_map_that_grows_holds_what_was_inserted() -> None:
    rng, ids = np.random.default_rng(0), HashMap()
    keys = np.unique(rng.integers(-(2**62), 2**62, 200_000))
    rng.shuffle(keys)
    tables = keys % 3
    for begin in range(0, len(keys), 7_000):
        part = slice(begin, begin + 7_000)
        ids.insert(tables[part], keys[part], np.arange(len(keys))[part])
        ids.erase(tables[part][::5], keys[part][::5])
    kept = np.arange(len(keys)) % 7_000 % 5 != 0
    assert np.array_equal(ids.find(tables, keys), np.where(kept, np.arange(len(keys)), EMPTY))
    assert len(ids) == kept.sum() and len(ids.slots) == slots_for(len(ids) + 0)
