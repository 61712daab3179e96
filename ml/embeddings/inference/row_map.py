"""A hash map from (table, id) to row that one thread changes while others read it, without locks.

The keys are divided among segments, each with open addressing and linear probing. A slot is two int64 words: the id, and
`table << 40 | row`, EMPTY or DELETED. The second word is written last and in one piece, so a reader finds a key's old row, its
new row, or, if the key is inserted or deleted meanwhile, no row. A slot never changes its id, and slots of deleted keys stay
until their segment is copied. A full segment is copied aside and then replaced: growth stops no reader, and takes the memory of
one segment.

A row that was replaced or deleted may still be read by look-ups that began before. `ReadEpochs` says when they have ended.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ml.compute.kernel_cache import jit
from ml.embeddings.collisionless.hash_map import EMPTY, ROW_BITS, ROW_MASK
from ml.embeddings.collisionless.prefetch import AHEAD
from ml.embeddings.inference.atomic import load_acquire, prefetch_at, store_release
from ml.embeddings.inference.shared.arena import Arena
from ml.hashing import GOLDEN, mix64

DELETED = -2  # `DELETED >> ROW_BITS` is no table
_SEGMENT_BITS, _SMALLEST, _TAKEN, _OF = 8, 8, 7, 10
_SEGMENTS, _SHIFT = 1 << _SEGMENT_BITS, 64 - _SEGMENT_BITS
_SLOT, _VALUE = 16, 8  # bytes of a slot, and of the id before its value

Ints = NDArray[np.int64]


class Segments(NamedTuple):
    """What a look-up reads: it stays valid for as long as it is referenced.

    Attributes:
        directory: Address of the first slot and number of slots less one of each segment, int64 [S, 2].
        slots: The slots of each segment, int64 [slots, 2], which keeps them in memory.
    """

    directory: Ints
    slots: tuple[Ints, ...]


class RowMap:
    """Map from keys (table, id) to rows. Tables are in [0, 2^23), rows in [0, 2^40), and ids are any int64.

    One thread at a time may call `assign` and `remove`. `find`, or `find_one` in a kernel, may be called at any time.

    Example:
        >>> rows = RowMap()
        >>> rows.assign(0, np.array([7, -1]), np.array([1, 2])).tolist()
        [-1, -1]
        >>> rows.assign(0, np.array([7]), np.array([3])).tolist()  # the row before
        [1]
        >>> rows.remove(0, np.array([-1, 8])).tolist()
        [2, -1]
        >>> rows.find(0, np.array([7, -1])).tolist(), len(rows)
        ([3, -1], 1)
    """

    def __init__(self) -> None:
        self._arena: Arena | None = None
        self._replaced: list[Ints] = []  # segments in the arena that readers may still use
        self._set([_slots(_SMALLEST) for _ in range(_SEGMENTS)])

    def __len__(self) -> int:
        return int(self._live.sum())

    def __getstate__(self) -> tuple[Ints, ...]:
        """Copy and pickle the slots without their addresses."""
        return self.segments.slots

    def __setstate__(self, slots: tuple[Ints, ...]) -> None:
        self._arena, self._replaced = None, []
        self._set(list(slots))

    @property
    def nbytes(self) -> int:
        """Size of all slots in bytes."""
        return sum(slots.nbytes for slots in self.segments.slots)

    def find(self, table: int, ids: Ints) -> Ints:
        """Return the row of each id, int64 [N]; EMPTY for ids without a row."""
        rows, segments = np.empty(len(ids), np.int64), self.segments
        _find(segments.directory, table, ids, rows)
        return rows

    def assign(self, table: int, ids: Ints, rows: Ints) -> Ints:
        """Give ids new rows, each in one step for readers.

        Args:
            table: The table.
            ids: Unique ids, with or without a row, int64 [N].
            rows: Their new rows, already written, int64 [N].

        Returns:
            The rows before, int64 [N]; EMPTY for ids that had none.
        """
        self._reserve(table, ids)
        before = np.empty(len(ids), np.int64)
        _assign(self.segments.directory, self._live, self._taken, table, ids, rows, before)
        return before

    def remove(self, table: int, ids: Ints) -> Ints:
        """Delete ids. Returns the rows before, int64 [N]; EMPTY for ids that had none."""
        before = np.empty(len(ids), np.int64)
        _remove(self.segments.directory, self._live, table, ids, before)
        return before

    def items(self, table: int) -> tuple[Ints, Ints]:
        """Return the ids of a table in ascending order, and the row of each id, both int64 [N]."""
        found = [slots[slots[:, 1] >> ROW_BITS == table] for slots in self.segments.slots]
        mine = np.concatenate(found)
        mine = mine[np.argsort(mine[:, 0])]
        return np.ascontiguousarray(mine[:, 0]), mine[:, 1] & ROW_MASK

    def share(self, arena: Arena) -> None:
        """Move the slots to shared memory, and allocate further ones there.

        Segments that are copied from now on keep their memory until `reuse`, as readers in other processes hold no reference.
        """
        self._arena = arena
        self._set([arena.copy(own) for own in self.segments.slots])

    def reuse(self) -> None:
        """Reuse the shared memory of segments that were copied before, which no reader uses any more."""
        for slots in self._replaced:
            assert self._arena is not None
            self._arena.free(slots)
        self._replaced = []

    def _set(self, slots: list[Ints]) -> None:
        """Replace all segments, and count their keys and taken slots."""
        self._live = np.array([np.count_nonzero(own[:, 1] >= 0) for own in slots])
        self._taken = np.array([np.count_nonzero(own[:, 1] != EMPTY) for own in slots])
        self.segments = _segments(slots)

    def _reserve(self, table: int, ids: Ints) -> None:
        """Copy the segments that have too few empty slots for new ids, without the slots of deleted keys."""
        new = np.zeros(_SEGMENTS, np.int64)
        _count_new(self.segments.directory, table, ids, new)
        sizes = self.segments.directory[:, 1] + 1
        full = np.flatnonzero((self._taken + new) * _OF > sizes * _TAKEN)
        for segment in full.tolist():
            slots = list(self.segments.slots)
            wanted = _slots_for(int(self._live[segment] + new[segment]))
            copied = _slots(wanted) if self._arena is None else self._arena.slots(wanted)
            _copy(slots[segment], copied)
            if self._arena is not None:
                self._replaced.append(slots[segment])
            slots[segment] = copied
            self._taken[segment] = self._live[segment]
            self.segments = _segments(slots)


def _slots_for(keys: int) -> int:
    """Return the number of slots for a number of keys: a power of two that leaves room for a tenth more."""
    slots = _SMALLEST
    while keys * _OF * 1.1 > slots * _TAKEN:
        slots *= 2
    return slots


def _slots(size: int) -> Ints:
    return np.full((size, 2), EMPTY, np.int64)


def _segments(slots: list[Ints]) -> Segments:
    directory = np.array([(own.ctypes.data, len(own) - 1) for own in slots], np.int64)
    return Segments(directory, tuple(slots))


@jit(inline="always")
def _hash(table, key):  # type: ignore[no-untyped-def]
    return mix64(np.uint64(key) + np.uint64(table + 1) * np.uint64(GOLDEN))


@jit(inline="always")
def prefetch_one(directory, table, key):  # type: ignore[no-untyped-def]
    """Prefetch the first slot that a key can be stored in."""
    spread = _hash(table, key)
    segment = np.int64(spread >> np.uint64(_SHIFT))
    prefetch_at(directory[segment, 0] + _SLOT * (np.int64(spread) & directory[segment, 1]))


@jit(inline="always")
def _slot_of(directory, table, key):  # type: ignore[no-untyped-def]
    """Return the address of a key's slot, or of the empty slot that ends its search, and the slot's value."""
    spread = _hash(table, key)
    segment = np.int64(spread >> np.uint64(_SHIFT))
    base, mask = directory[segment, 0], directory[segment, 1]
    at = np.int64(spread) & mask
    while True:
        slot = base + _SLOT * at
        value = load_acquire(slot + _VALUE)
        if value == EMPTY or (value >> ROW_BITS == table and load_acquire(slot) == key):
            return slot, value
        at = (at + 1) & mask


@jit(inline="always")
def find_one(directory, table, key):  # type: ignore[no-untyped-def]
    """Return the row of a key; EMPTY if it has none."""
    value = _slot_of(directory, table, key)[1]
    return np.int64(EMPTY) if value == EMPTY else value & ROW_MASK


@jit(nogil=True)
def _find(directory, table, ids, rows):  # type: ignore[no-untyped-def]
    for i in range(len(ids)):
        if i + AHEAD < len(ids):
            prefetch_one(directory, table, ids[i + AHEAD])
        rows[i] = find_one(directory, table, ids[i])


@jit(nogil=True)
def _count_new(directory, table, ids, new):  # type: ignore[no-untyped-def]
    """Add the number of ids without a row to `new`, by segment, int64 [S]."""
    for i in range(len(ids)):
        if i + AHEAD < len(ids):
            prefetch_one(directory, table, ids[i + AHEAD])
        if find_one(directory, table, ids[i]) == EMPTY:
            new[np.int64(_hash(table, ids[i]) >> np.uint64(_SHIFT))] += 1


@jit(nogil=True)
def _assign(directory, live, taken, table, ids, rows, before):  # type: ignore[no-untyped-def]
    for i in range(len(ids)):
        if i + AHEAD < len(ids):
            prefetch_one(directory, table, ids[i + AHEAD])
        slot, value = _slot_of(directory, table, ids[i])
        before[i] = value
        if value != EMPTY:
            before[i] = value & ROW_MASK
        else:
            segment = np.int64(_hash(table, ids[i]) >> np.uint64(_SHIFT))
            live[segment] += 1
            taken[segment] += 1
            store_release(slot, ids[i])
        store_release(slot + _VALUE, np.int64(table) << ROW_BITS | rows[i])


@jit(nogil=True)
def _remove(directory, live, table, ids, before):  # type: ignore[no-untyped-def]
    for i in range(len(ids)):
        slot, value = _slot_of(directory, table, ids[i])
        before[i] = value
        if value != EMPTY:
            before[i] = value & ROW_MASK
            live[np.int64(_hash(table, ids[i]) >> np.uint64(_SHIFT))] -= 1
            store_release(slot + _VALUE, np.int64(DELETED))


@jit(nogil=True)
def _copy(slots, copied):  # type: ignore[no-untyped-def]
    """Copy the keys of a segment to an empty one."""
    mask = len(copied) - 1
    for i in range(len(slots)):
        value = slots[i, 1]
        if value >= 0:
            at = np.int64(_hash(value >> ROW_BITS, slots[i, 0])) & mask
            while copied[at, 1] != EMPTY:
                at = (at + 1) & mask
            copied[at, 0], copied[at, 1] = slots[i, 0], value
