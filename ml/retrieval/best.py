"""Marks the items with the highest scores, in a time that does not depend on how many scores are equal."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ml.compute.kernel_cache import jit


def mark_best(scores: NDArray[np.float32], count: int) -> NDArray[np.bool_]:
    """Mark the first `count` items of each row by score. Of equal scores, the first places are marked.

    Args:
        scores: float32 [B, L], without NaN.
        count: Number of items to mark, at least 1; all if there are fewer.

    Returns:
        bool [B, L].

    Example:
        >>> mark_best(np.array([[0.5, 2.0, 0.5, -1.0]], np.float32), 2).tolist()
        [[True, True, False, False]]
    """
    if scores.shape[1] <= count:
        return np.ones(scores.shape, np.bool_)
    out = np.empty(scores.shape, np.bool_)
    _mark((scores + np.float32(0)).view(np.uint32), count, out)  # -0 becomes 0, which is equal to it
    return out


@jit(nogil=True)
def _mark(bits, count, out):  # type: ignore[no-untyped-def]
    # bits: uint32 [B, L] of float32 values. The least key that is marked is found by its bytes, from the highest to the lowest.
    keys, counts = np.empty(bits.shape[1], np.int64), np.empty(256, np.int64)
    for b in range(len(bits)):
        for j in range(len(keys)):
            key = np.int64(bits[b, j])
            keys[j] = key ^ 0xFFFFFFFF if key >> 31 else key | 0x80000000  # in the order of the values
        least, left = np.int64(0), count
        for shift in (24, 16, 8, 0):
            counts[:] = 0
            for j in range(len(keys)):
                if keys[j] >> (shift + 8) == least >> (shift + 8):
                    counts[(keys[j] >> shift) & 255] += 1
            digit = 255
            while counts[digit] < left:
                left -= counts[digit]
                digit -= 1
            least |= digit << shift
        for j in range(len(keys)):
            tie = keys[j] == least and left > 0
            out[b, j] = keys[j] > least or tie
            left -= tie
