"""Open-addressing tables over 64-bit keys that are already hashes: looking ids up, and counting distinct keys.

Keys are any int64 but 0 (MISSING_ID, never a value's key), which marks an empty slot. What keys and ids mean is
`ml.features.vocabulary`'s business.
"""

from __future__ import annotations

import numpy as np

from ml.compute.kernel_cache import jit

EMPTY = 0


def slots_for(count: int) -> int:
    """Power of two, at most half full with `count` keys."""
    return 1 << max(4, (2 * count - 1).bit_length())


@jit
def insert(slots: np.ndarray, places: np.ndarray, keys: np.ndarray) -> None:
    """Put keys (int64 [V], distinct, not 0) into zeroed slots (int64 [S], S a power of two); places[s]: position of its key."""
    mask = len(slots) - 1
    for i in range(len(keys)):
        s = keys[i] & mask
        while slots[s] != EMPTY:
            s = (s + 1) & mask
        slots[s] = keys[i]
        places[s] = i


@jit(inline="always")
def find_one(slots, places, key, absent):  # type: ignore[no-untyped-def]
    """Position of a key as it was inserted, or `absent`."""
    mask = len(slots) - 1
    s = key & mask
    while slots[s] != key and slots[s] != EMPTY:
        s = (s + 1) & mask
    return places[s] if slots[s] != EMPTY else absent


@jit
def find(slots: np.ndarray, places: np.ndarray, keys: np.ndarray, absent: int) -> np.ndarray:
    """Position of each key (int64 [N]) as it was inserted, or `absent`; a key of 0 is absent. int64 [N]."""
    found = np.empty(len(keys), np.int64)
    for i in range(len(keys)):
        found[i] = find_one(slots, places, keys[i], absent)
    return found


@jit
def count_distinct(keys: np.ndarray, slots: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct keys in order of first occurrence, how often each occurs, and where first; three of int64 [V].

    keys: int64 [N], of which 0 is skipped. slots: a power of two above the number of distinct keys.
    """
    mask = slots - 1
    table = np.zeros(slots, np.int64)
    places = np.empty(slots, np.int64)
    distinct, counts, first = np.empty(slots, np.int64), np.empty(slots, np.int64), np.empty(slots, np.int64)
    n = 0
    for i in range(len(keys)):
        if keys[i] == EMPTY:
            continue
        s = keys[i] & mask
        while table[s] != keys[i] and table[s] != EMPTY:
            s = (s + 1) & mask
        if table[s] == EMPTY:
            table[s], places[s] = keys[i], n
            distinct[n], counts[n], first[n] = keys[i], 0, i
            n += 1
        counts[places[s]] += 1
    return distinct[:n].copy(), counts[:n].copy(), first[:n].copy()
