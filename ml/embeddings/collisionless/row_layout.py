"""The layout of a row: one record of 4-byte words, with what belongs to an id side by side in memory.

| words        | as      | content                                                                     |
|--------------|---------|-----------------------------------------------------------------------------|
| 0, 1         | int64   | id                                                                          |
| 2            | uint32  | seen: latest event time, whole seconds since 1970 UTC                       |
| 3            | int32   | count: how often it was looked up in training, up to MOST                   |
| 4            | int32   | step of its last update                                                     |
| 5            | int32   | number of its table, FREE for a row that is not in use                      |
| 6            | int32   | place: its index among the rows of the running batch                        |
| 7            | float32 | slot: row-wise Adagrad's accumulator; the number of Adam's updates          |
| 8 … 8 + D    | float32 | weights                                                                     |
| 8 + D …      | float32 | optimizer state: D words for Adagrad, 2 D for Adam and FTRL, otherwise none |

A record is one or two adjacent cache lines; separate columns would cost a cache miss each. Row 0 is the default row: ids
without a row read it, and it is never updated.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ml.embeddings.collisionless.memory import zeros

ID = 0  # of the int64 view
SEEN, COUNT, STEP, TABLE, PLACE, SLOT, WEIGHTS = 2, 3, 4, 5, 6, 7, 8
FREE, DEFAULT = -1, 0
LATEST = 2**32 - 1  # seconds
MOST = 2**31 - 1  # the largest count and step


class RowArray:
    """R rows of `width` words, as three views of the same memory.

    Args:
        floats: float32 [R, width]. `words` is the same memory as int32 [R, width], `longs` as int64 [R, width / 2].
    """

    def __init__(self, floats: NDArray[np.float32]) -> None:
        self.floats = floats
        self.words: NDArray[np.int32] = floats.view(np.int32)
        self.longs: NDArray[np.int64] = floats.view(np.int64)

    @classmethod
    def zeros(cls, rows: int, width: int) -> RowArray:
        return cls(zeros((rows, width), np.float32))

    def __reduce__(self) -> tuple[type[RowArray], tuple[NDArray[np.float32]]]:
        """Copies and pickles store one array, because three would no longer share their memory."""
        return RowArray, (self.floats,)

    def __len__(self) -> int:
        return len(self.floats)

    def grown(self, rows: int, used: int) -> RowArray:
        """Returns a larger copy with the first `used` rows."""
        larger = RowArray.zeros(rows, self.floats.shape[1])
        larger.floats[:used] = self.floats[:used]
        return larger

    def seen(self, rows: NDArray[np.int64] | slice) -> NDArray[np.int64]:
        """Returns the latest event times, int64, seconds since 1970 UTC."""
        return self.words[rows, SEEN].view(np.uint32).astype(np.int64)


def width_of(dim: int, state: int) -> int:
    """Returns the words of a row with `dim` weights and `state` words of optimizer state: even, to align int64s."""
    return WEIGHTS + dim + state + (dim + state) % 2
