"""The layout of a row in memory: one record of 4-byte words for everything that is stored per id.

| words        | dtype   | content                                                                     |
|--------------|---------|-----------------------------------------------------------------------------|
| 0, 1         | int64   | id                                                                          |
| 2            | uint32  | seen: latest event time, in whole seconds since 1970 UTC                    |
| 3            | int32   | count: number of look-ups in training, at most MOST                         |
| 4            | int32   | step of the last update                                                     |
| 5            | int32   | index of the table; FREE if the row is not in use                           |
| 6            | int32   | place: index among the distinct rows of the latest batch                    |
| 7            | float32 | slot: row-wise Adagrad's accumulator, or Adam's number of updates           |
| 8 … 8 + D    | float32 | weights                                                                     |
| 8 + D …      | float32 | optimizer state: D words for Adagrad, 2 D for Adam and FTRL, otherwise none |

A record of a small dimension takes one or two adjacent cache lines. If each field were a separate array, each would cost a
cache miss. Row 0 is the default row: ids without a row read it, and it is never updated.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ml.compute.kernel_cache import jit
from ml.embeddings.collisionless.memory import zeros
from ml.embeddings.collisionless.prefetch import AHEAD, prefetch

ID = 0  # column of the int64 view; the columns below are those of 4-byte words
SEEN, COUNT, STEP, TABLE, PLACE, SLOT, WEIGHTS = 2, 3, 4, 5, 6, 7, 8
FREE, DEFAULT = -1, 0
LATEST = 2**32 - 1  # the largest event time, in seconds
MOST = 2**31 - 1  # the largest count and step


class RowArray:
    """R rows of `width` words, as three views of the same memory.

    Args:
        floats: The rows as float32 [R, width].

    Attributes:
        floats: The rows as float32 [R, width].
        words: The rows as int32 [R, width].
        longs: The rows as int64 [R, width / 2].
    """

    def __init__(self, floats: NDArray[np.float32]) -> None:
        self.floats = floats
        self.words: NDArray[np.int32] = floats.view(np.int32)
        self.longs: NDArray[np.int64] = floats.view(np.int64)

    @classmethod
    def zeros(cls, rows: int, width: int) -> RowArray:
        return cls(zeros((rows, width), np.float32))

    def __reduce__(self) -> tuple[type[RowArray], tuple[NDArray[np.float32]]]:
        """Copy and pickle one array, because copies of all three views would not share memory."""
        return RowArray, (self.floats,)

    def __len__(self) -> int:
        return len(self.floats)

    def grown(self, rows: int, used: int) -> RowArray:
        """Return an array of `rows` rows with a copy of the first `used` rows; the other rows are zeros."""
        larger = RowArray.zeros(rows, self.floats.shape[1])
        larger.floats[:used] = self.floats[:used]
        return larger

    def seen(self, rows: NDArray[np.int64] | slice) -> NDArray[np.int64]:
        """Return the latest event time of each row, int64, in seconds since 1970 UTC."""
        return self.words[rows, SEEN].view(np.uint32).astype(np.int64)


def width_of(dim: int, state: int) -> int:
    """Return the number of words of a row with `dim` weights and `state` words of optimizer state.

    The number is even, so that the int64 ids of all rows are aligned.
    """
    return WEIGHTS + dim + state + (dim + state) % 2


@jit(nogil=True)
def copy_rows(words, rows, out):  # type: ignore[no-untyped-def]
    """Copy the first words of rows, int64 [N], to `out`, int32 [N, W]. Takes a third of the time of numpy's indexing."""
    width = out.shape[1]
    last = np.uint64(width - 1)
    for n in range(len(rows)):
        if n + AHEAD < len(rows):
            soon = np.uint64(rows[n + AHEAD])
            prefetch(words, soon, np.uint64(0))
            prefetch(words, soon, last)
        row = np.uint64(rows[n])
        for w in range(width):
            out[n, w] = words[row, np.uint64(w)]
