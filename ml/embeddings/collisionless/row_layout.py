"""A row of a collisionless table as one record of 4-byte words: what it is of, and what it holds, side by side in memory.

| words        | as      |                                                                          |
|--------------|---------|--------------------------------------------------------------------------|
| 0, 1         | int64   | id                                                                       |
| 2            | uint32  | seen: latest event time, whole seconds since 1970 UTC                    |
| 3            | int32   | count: how often it was looked up in training, up to MOST                |
| 4            | int32   | step of the tables when it was last updated                              |
| 5            | int32   | number of its table, FREE for a row that waits to be used again          |
| 6            | int32   | place: where the batch at hand lists it, meaningless between batches     |
| 7            | float32 | slot: row-wise Adagrad's accumulator; how many updates Adam has made     |
| 8 … 8 + D    | float32 | weights                                                                  |
| 8 + D …      | float32 | the optimizer's state: D for Adagrad, 2 D for Adam and FTRL, else none   |

One record is one or two neighbouring cache lines, where columns apart would cost a miss each. Row 0 is the default row: what is
not admitted reads it, and nothing updates it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ml.embeddings.collisionless.memory import zeros

ID = 0  # of the int64 view
SEEN, COUNT, STEP, TABLE, PLACE, SLOT, WEIGHTS = 2, 3, 4, 5, 6, 7, 8
FREE, DEFAULT = -1, 0
LATEST = 2**32 - 1  # seconds
MOST = 2**31 - 1  # occurrences that are counted, and steps


class RowArray:
    """R records of `width` words. floats: float32 [R, width]; words: the same memory as int32 [R, width]; longs: as int64
    [R, width / 2]."""

    def __init__(self, floats: NDArray[np.float32]) -> None:
        self.floats = floats
        self.words: NDArray[np.int32] = floats.view(np.int32)
        self.longs: NDArray[np.int64] = floats.view(np.int64)

    @classmethod
    def zeros(cls, rows: int, width: int) -> RowArray:
        return cls(zeros((rows, width), np.float32))

    def __reduce__(self) -> tuple[type[RowArray], tuple[NDArray[np.float32]]]:
        """Copies and pickles see one array: three would no longer be the same memory."""
        return RowArray, (self.floats,)

    def __len__(self) -> int:
        return len(self.floats)

    def grown(self, rows: int, used: int) -> RowArray:
        """A larger copy, of which the first `used` rows are these."""
        larger = RowArray.zeros(rows, self.floats.shape[1])
        larger.floats[:used] = self.floats[:used]
        return larger

    def seen(self, rows: NDArray[np.int64] | slice) -> NDArray[np.int64]:
        """Seconds since 1970 UTC, int64."""
        return self.words[rows, SEEN].view(np.uint32).astype(np.int64)


def width_of(dim: int, state: int) -> int:
    """Words of a record with `dim` weights and `state` words of optimizer state; even, so that int64s lie even."""
    return WEIGHTS + dim + state + (dim + state) % 2
