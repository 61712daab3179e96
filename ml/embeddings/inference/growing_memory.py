"""Zeroed memory for parts that grow without being moved: an address range that is much larger than what is used of it.

The operating system assigns memory to a page when it is first written, so an unused address range takes none.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ml.embeddings.inference.shared.ranges import NO_RESERVE, RangeHandle, SharedRange

_PAGE, _HUGE_PAGE = 1 << 12, 1 << 21
_ROOMS = ((64, 1 << 28), (8, 1 << 24), (2, _PAGE))
"""Room of a part, as a multiple of its size and in bytes at least; smaller ones in case the system refuses an address range."""


class MemoryHandle(NamedTuple):
    """Identifies shared memory for other processes.

    Attributes:
        range: The memory.
        start: First byte of the range of all parts.
        begins: First byte of each part in that range.
        rooms: Number of bytes up to the next part.
    """

    range: RangeHandle
    start: int
    begins: list[int]
    rooms: list[int]


class GrowingMemory:
    """One range of bytes for several parts, with room behind each of them.

    Args:
        sizes: Size of each part, in bytes.
        shared: Whether other processes can read the memory.

    Attributes:
        bytes: The range, uint8.
        begins: First byte of each part.
        rooms: Number of bytes up to the next part, to which a part can grow.

    Raises:
        MemoryError: The system refuses an address range of twice the sizes.

    Example:
        >>> memory = GrowingMemory([100, 0])
        >>> memory.rooms[0] > 100, int(memory.bytes[memory.begins[1]])
        (True, 0)
    """

    def __init__(self, sizes: Sequence[int], shared: bool = False) -> None:
        self._shared: SharedRange | None = None
        for multiple, least in _ROOMS:
            unit = _HUGE_PAGE if least > _HUGE_PAGE else _PAGE
            rooms = [-(-max(size * multiple, least) // unit) * unit for size in sizes]
            try:
                self._map(sum(rooms) + _HUGE_PAGE, shared)
                break
            except (OSError, ValueError):
                continue
        else:
            raise MemoryError(f"no address range for {sum(sizes)} bytes of tables: raise the limit of addresses (ulimit -v)")
        whole = np.frombuffer(self._mapped, np.uint8)
        self._start = -whole.ctypes.data % _HUGE_PAGE
        self.bytes: NDArray[np.uint8] = whole[self._start : self._start + sum(rooms)]
        self.begins, self.rooms = [0, *accumulate(rooms)][:-1], rooms
        self._huge = [-(-begin // _HUGE_PAGE) * _HUGE_PAGE for begin in self.begins]
        for part, size in enumerate(sizes):
            self.use(part, size)

    @classmethod
    def attach(cls, handle: MemoryHandle) -> GrowingMemory:
        """Read the shared memory of another process. Raises `StaleRange`."""
        memory = cls.__new__(cls)
        memory._shared, memory._start = SharedRange.attach(handle.range), handle.start
        memory.begins, memory.rooms = handle.begins, handle.rooms
        memory.bytes = memory._shared.view()[handle.start : handle.start + sum(handle.rooms)]
        return memory

    @property
    def handle(self) -> MemoryHandle:
        """Identifies the memory for other processes, if it is shared."""
        assert self._shared is not None, "only shared memory has a handle"
        return MemoryHandle(self._shared.handle, self._start, self.begins, self.rooms)

    def _map(self, size: int, shared: bool) -> None:
        if shared:
            self._shared = SharedRange.create(size)
            self._mapped = self._shared.map()
        else:
            self._mapped = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE)

    def use(self, part: int, size: int) -> None:
        """Use huge pages for the whole ones in the first `size` bytes of a part, which are about to be written.

        With pages of 4 KiB, most look-ups in a table of several gigabytes also miss the processor's address cache (TLB).
        """
        end = (self.begins[part] + size) // _HUGE_PAGE * _HUGE_PAGE
        if end > self._huge[part] and hasattr(mmap, "MADV_HUGEPAGE"):
            self._mapped.madvise(mmap.MADV_HUGEPAGE, self._start + self._huge[part], end - self._huge[part])
            self._huge[part] = end
