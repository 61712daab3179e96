"""Open-addressing hash tables over 64-bit keys that are already hashes: look-ups, and counts of distinct keys.

A key is any int64 except 0, which marks an empty slot (0 is MISSING_ID, and no value has this key). The meaning of keys and
ids is defined in `ml.features.vocabulary`.
"""

from __future__ import annotations

import numpy as np

from ml.compute.kernel_cache import jit

EMPTY = 0


def slots_for(count: int) -> int:
    """Returns the number of slots of a table for `count` keys: a power of two, so that at most half of them are filled."""
    return 1 << max(4, (2 * count - 1).bit_length())


@jit(nogil=True)
def insert(slots: np.ndarray, places: np.ndarray, keys: np.ndarray) -> None:
    """Inserts keys into an empty table.

    Args:
        slots: int64 [S], zeros, S a power of two; receives the keys.
        places: int64 [S]; receives the position in `keys` of the key in each slot.
        keys: int64 [V], distinct and not 0.
    """
    mask = len(slots) - 1
    for i in range(len(keys)):
        s = keys[i] & mask
        while slots[s] != EMPTY:
            s = (s + 1) & mask
        slots[s] = keys[i]
        places[s] = i


@jit(inline="always")
def find_one(slots, places, key, absent):  # type: ignore[no-untyped-def]
    """Returns the position of a key among the inserted keys, or `absent`."""
    mask = len(slots) - 1
    s = key & mask
    while slots[s] != key and slots[s] != EMPTY:
        s = (s + 1) & mask
    return places[s] if slots[s] != EMPTY else absent


@jit(nogil=True)
def find(slots: np.ndarray, places: np.ndarray, keys: np.ndarray, absent: int) -> np.ndarray:
    """Looks up keys.

    Args:
        slots: int64 [S], filled by `insert`.
        places: int64 [S], filled by `insert`.
        keys: int64 [N].
        absent: The result for a key that is not in the table; 0 never is.

    Returns:
        int64 [N], the position of each key among the inserted keys.
    """
    found = np.empty(len(keys), np.int64)
    for i in range(len(keys)):
        found[i] = find_one(slots, places, keys[i], absent)
    return found


@jit
def count_distinct(keys: np.ndarray, slots: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts distinct keys.

    Args:
        keys: int64 [N]; 0 is skipped.
        slots: A power of two above the number of distinct keys.

    Returns:
        Three int64 arrays [V]: the distinct keys in order of first occurrence, their counts, and the index of the first
        occurrence of each.
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
