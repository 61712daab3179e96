"""An open-addressing hash map from (table, id) to row.

A slot consists of two int64 values: the id, and `table << 40 | row` or EMPTY. Any id can be a key, and most look-ups read one
cache line. Probing is linear. The number of slots is a power of two, and at most 7 in 10 slots are taken. Deletion moves later
keys back instead of leaving markers (Knuth, TAOCP 3, 6.4, algorithm R).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ml.compute.kernel_cache import jit
from ml.embeddings.collisionless.memory import extended
from ml.embeddings.collisionless.prefetch import AHEAD, prefetch
from ml.hashing import GOLDEN, mix64

EMPTY = -1
ROW_BITS = 40
ROW_MASK = (1 << ROW_BITS) - 1
_SMALLEST, _TAKEN, _OF = 1 << 10, 7, 10


class HashMap:
    """Map from keys (table, id) to rows. Tables are in [0, 2^23), rows in [0, 2^40), and ids are any int64.

    Args:
        expected: Number of keys to reserve memory for.

    Example:
        >>> ids = HashMap()
        >>> ids.insert(np.array([0, 0, 1]), np.array([7, -1, 7]), np.array([1, 2, 3]))
        >>> ids.find(np.array([0, 1, 1]), np.array([-1, 7, -1])).tolist()
        [2, 3, -1]
    """

    def __init__(self, expected: int = 0) -> None:
        self.slots = _empty(slots_for(expected))
        self.size = 0

    def __len__(self) -> int:
        return self.size

    @property
    def nbytes(self) -> int:
        return self.slots.nbytes

    def find(self, tables: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the row of each key, int64 [N]; EMPTY for missing keys."""
        rows = np.empty(len(ids), np.int64)
        find_many(self.slots, tables, ids, rows)
        return rows

    def insert(self, tables: NDArray[np.int64], ids: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        """Insert N unique keys that are not in the map."""
        self.reserve(len(ids))
        insert_many(self.slots, tables, ids, rows)
        self.size += len(ids)

    def erase(self, tables: NDArray[np.int64], ids: NDArray[np.int64]) -> None:
        """Delete keys. Missing keys are ignored."""
        self.size -= erase_many(self.slots, tables, ids)

    def reserve(self, more: int) -> None:
        """Reserve memory for `more` keys. The slots are extended in place, without a second copy."""
        wanted = slots_for(self.size + more)
        if not self.size and len(self.slots) < wanted:
            self.slots = _empty(wanted)
        while len(self.slots) < wanted:
            before = len(self.slots)
            self.slots = extended(self.slots, 2 * before)
            self.slots[before:] = EMPTY
            rehash(self.slots)


def slots_for(keys: int) -> int:
    """Return the number of slots for a number of keys, a power of two."""
    slots = _SMALLEST
    while keys * _OF > slots * _TAKEN:
        slots *= 2
    return slots


def _empty(slots: int) -> NDArray[np.int64]:
    return np.full((slots, 2), EMPTY, np.int64)


@jit(inline="always")
def home_of(table, key, mask):  # type: ignore[no-untyped-def]
    """Return the first slot that a key can be stored in."""
    return np.int64(mix64(np.uint64(key) + np.uint64(table + 1) * np.uint64(GOLDEN)) & np.uint64(mask))


@jit(inline="always")
def find_one(slots, table, key):  # type: ignore[no-untyped-def]
    """Return the row of a key; EMPTY if it is missing."""
    mask = len(slots) - 1
    at = home_of(table, key, mask)
    while True:
        value = slots[at, 1]
        if value == EMPTY:
            return np.int64(EMPTY)
        if slots[at, 0] == key and value >> ROW_BITS == table:
            return value & ROW_MASK
        at = (at + 1) & mask


@jit(inline="always")
def insert_one(slots, table, key, row):  # type: ignore[no-untyped-def]
    """Insert a key that is not in the map. There must be an empty slot."""
    mask = len(slots) - 1
    at = home_of(table, key, mask)
    while slots[at, 1] != EMPTY:
        at = (at + 1) & mask
    slots[at, 0] = key
    slots[at, 1] = table << ROW_BITS | row


@jit
def erase_one(slots, table, key):  # type: ignore[no-untyped-def]
    """Delete a key. Returns whether it was present."""
    mask = len(slots) - 1
    at = home_of(table, key, mask)
    while True:
        value = slots[at, 1]
        if value == EMPTY:
            return False
        if slots[at, 0] == key and value >> ROW_BITS == table:
            break
        at = (at + 1) & mask
    hole, after = at, (at + 1) & mask
    while slots[after, 1] != EMPTY:
        home = home_of(slots[after, 1] >> ROW_BITS, slots[after, 0], mask)
        # The key can move back unless its home is cyclically in (hole, after].
        if ((after - home) & mask) >= ((after - hole) & mask):
            slots[hole, 0], slots[hole, 1] = slots[after, 0], slots[after, 1]
            hole = after
        after = (after + 1) & mask
    slots[hole, 1] = EMPTY
    return True


@jit(nogil=True)
def find_many(slots, tables, ids, rows):  # type: ignore[no-untyped-def]
    """Write the row of each key to `rows`, int64 [N]; EMPTY for missing keys."""
    mask = len(slots) - 1
    for i in range(len(ids)):
        if i + AHEAD < len(ids):
            prefetch(slots, home_of(tables[i + AHEAD], ids[i + AHEAD], mask), 0)
        rows[i] = find_one(slots, tables[i], ids[i])


@jit(nogil=True)
def insert_many(slots, tables, ids, rows):  # type: ignore[no-untyped-def]
    """Insert unique keys that are not in the map. There must be empty slots for all of them."""
    for i in range(len(ids)):
        insert_one(slots, tables[i], ids[i], rows[i])


@jit(nogil=True)
def erase_many(slots, tables, ids):  # type: ignore[no-untyped-def]
    """Delete keys. Returns the number of keys that were present."""
    erased = 0
    for i in range(len(ids)):
        erased += erase_one(slots, tables[i], ids[i])
    return erased


@jit(nogil=True)
def rehash(slots):  # type: ignore[no-untyped-def]
    """Move keys to their slots after the number of slots has been doubled. The upper half must be empty.

    Each cluster of taken slots is processed from its first slot. The new home of a key is its old home, or the corresponding
    slot of the upper half. The keys between its old home and its slot have already been moved. The key therefore moves to its
    own slot, to an earlier slot, or to a corresponding slot of the upper half, and does not pass a key that has not been moved.
    """
    old = len(slots) // 2
    start = 0
    while slots[start, 1] != EMPTY:
        start += 1
    for offset in range(1, old):
        at = (start + offset) & (old - 1)
        value = slots[at, 1]
        if value != EMPTY:
            slots[at, 1] = EMPTY
            insert_one(slots, value >> ROW_BITS, slots[at, 0], value & ROW_MASK)
