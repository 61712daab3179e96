"""Zeroed memory for parts that grow without being moved: an address range that is much larger than what is used of it.

The operating system assigns memory to a page when it is first written, so an unused address range takes none.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

_PAGE, _HUGE_PAGE = 1 << 12, 1 << 21
_ROOMS = ((64, 1 << 28), (8, 1 << 24), (2, _PAGE))
"""Room of a part, as a multiple of its size and in bytes at least; smaller ones in case the system refuses an address range."""
_NO_RESERVE = 0x4000 if sys.platform == "linux" else 0  # MAP_NORESERVE: unused pages do not count against a limit


class GrowingMemory:
    """One range of bytes for several parts, with room behind each of them.

    Args:
        sizes: Size of each part, in bytes.

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

    def __init__(self, sizes: Sequence[int]) -> None:
        for multiple, least in _ROOMS:
            unit = _HUGE_PAGE if least > _HUGE_PAGE else _PAGE
            rooms = [-(-max(size * multiple, least) // unit) * unit for size in sizes]
            try:
                flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE
                self._mapped = mmap.mmap(-1, sum(rooms) + _HUGE_PAGE, flags=flags)
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

    def use(self, part: int, size: int) -> None:
        """Use huge pages for the whole ones in the first `size` bytes of a part, which are about to be written.

        With pages of 4 KiB, most look-ups in a table of several gigabytes also miss the processor's address cache (TLB).
        """
        end = (self.begins[part] + size) // _HUGE_PAGE * _HUGE_PAGE
        if end > self._huge[part] and hasattr(mmap, "MADV_HUGEPAGE"):
            self._mapped.madvise(mmap.MADV_HUGEPAGE, self._start + self._huge[part], end - self._huge[part])
            self._huge[part] = end
