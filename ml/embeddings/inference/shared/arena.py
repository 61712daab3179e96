"""Shared memory for hash tables of many sizes, which grow by being copied."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ml.embeddings.collisionless.hash_map import EMPTY
from ml.embeddings.inference.growing_memory import GrowingMemory

SLOT_BYTES = 16
_FIRST = 1 << 16  # bytes of the smallest memory
Ints = NDArray[np.int64]


class Place(NamedTuple):
    """Where slots are: the index of the memory, the byte in it, and the number of slots."""

    memory: int
    begin: int
    slots: int


class Arena:
    """Slots of hash tables, int64 [slots, 2], in memory that other processes can read. One thread may use it.

    Slots whose number is a power of two are reused for slots of the same number.

    Example:
        >>> arena = Arena()
        >>> slots = arena.slots(8)
        >>> arena.place(slots)
        Place(memory=0, begin=0, slots=8)
        >>> arena.free(slots)
        >>> arena.place(arena.slots(8))
        Place(memory=0, begin=0, slots=8)
    """

    def __init__(self) -> None:
        self.memories: list[GrowingMemory] = []
        self._used = 0  # bytes of the last memory
        self._free: defaultdict[int, list[Ints]] = defaultdict(list)

    def slots(self, count: int) -> Ints:
        """Return empty slots, int64 [count, 2]."""
        if self._free[count]:
            slots = self._free[count].pop()
        else:
            size = count * SLOT_BYTES
            if not self.memories or self._used + size > self.memories[-1].rooms[0]:
                self.memories.append(GrowingMemory([max(size, _FIRST)], shared=True))
                self._used = 0
            held = self.memories[-1].bytes[self._used : self._used + size]
            slots, self._used = held.view(np.int64).reshape(count, 2), self._used + size
        slots[:] = EMPTY
        return slots

    def copy(self, slots: Ints) -> Ints:
        """Return a copy of slots, int64 [slots, 2]."""
        copied = self.slots(len(slots))
        copied[:] = slots
        return copied

    def free(self, slots: Ints) -> None:
        """Reuse slots that nobody reads any more."""
        self._free[len(slots)].append(slots)

    def place(self, slots: Ints) -> Place:
        """Tell other processes where slots are."""
        address = slots.ctypes.data
        for number, memory in enumerate(self.memories):
            if 0 <= (begin := address - memory.bytes.ctypes.data) < len(memory.bytes):
                return Place(number, begin, len(slots))
        raise ValueError("the slots are not in the arena")
