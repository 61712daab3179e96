"""Zeroed memory for tables with random access, on huge pages if the system supports them.

With pages of 4 KiB, most look-ups in a table of several gigabytes also miss the processor's address cache (TLB). Huge pages
avoid these misses.
"""

from __future__ import annotations

import math
import mmap

import numpy as np
from numpy.typing import DTypeLike, NDArray

_PAGE = 1 << 21


def zeros(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray:
    """Return an array of zeros. Large arrays are aligned to huge pages. Pages that are never written take no memory."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < _PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.zeros(shape, dtype)
    memory = mmap.mmap(-1, size + _PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    raw = np.frombuffer(memory, np.uint8)
    start = -raw.ctypes.data % _PAGE
    return raw[start : start + size].view(dtype).reshape(shape)


def extended(array: NDArray, rows: int) -> NDArray:
    """Extend an array to a larger number of rows; new rows are zeros. Do not use the given array afterwards.

    The operating system extends the memory in place if it can, without a second copy of the contents.

    Args:
        array: The array to extend.
        rows: New number of rows.

    Returns:
        The extended array.
    """
    if not array.flags.owndata:  # for example, after unpickling
        array = array.copy()
    array.resize((rows, *array.shape[1:]), refcheck=False)
    return array
