"""Zeroed memory on huge pages, where the system has them, for tables that are read at random places.

On pages of 4 KiB most look-ups in a table of gigabytes also miss the processor's address cache (TLB); on huge pages they do
not.
"""

from __future__ import annotations

import math
import mmap

import numpy as np
from numpy.typing import DTypeLike, NDArray

_PAGE = 1 << 21


def zeros(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray:
    """Returns an array of zeros, aligned to a huge page if it is large. Pages that are never written take no memory."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < _PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.zeros(shape, dtype)
    memory = mmap.mmap(-1, size + _PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    raw = np.frombuffer(memory, np.uint8)
    start = -raw.ctypes.data % _PAGE
    return raw[start : start + size].view(dtype).reshape(shape)


def extended(array: NDArray, rows: int) -> NDArray:
    """Returns an array with more rows, zeros at the end; the given one must not be used afterwards.

    The memory is extended in place where the system can do that, without a second copy of its contents.
    """
    if not array.flags.owndata:  # as after unpickling
        array = array.copy()
    array.resize((rows, *array.shape[1:]), refcheck=False)
    return array
