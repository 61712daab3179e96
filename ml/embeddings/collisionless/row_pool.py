"""Allocation of rows in an array that grows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ml.embeddings.collisionless.row_layout import DEFAULT, FREE, TABLE, RowArray

_FIRST_ROWS = 1024


class RowPool:
    """An array of rows, and which of them are free. Row 0 is the default row, which is never allocated.

    Args:
        width: Number of words in a row.

    Example:
        >>> pool = RowPool(width=12)
        >>> rows = pool.take(3)
        >>> pool.release(rows[:1])
        >>> rows.tolist(), pool.take(2).tolist(), pool.used
        ([1, 2, 3], [1, 4], 5)
    """

    def __init__(self, width: int) -> None:
        self.array = RowArray.zeros(_FIRST_ROWS, width)
        self.array.words[DEFAULT, TABLE] = FREE
        self.free = np.empty(0, np.int64)  # the first `state[1]` are valid
        self.state = np.array([DEFAULT + 1, 0], np.int64)  # next row that has never been used; number of free rows

    @property
    def used(self) -> int:
        """Number of leading rows of `array` that are or have been in use."""
        return int(self.state[0])

    def take(self, count: int) -> NDArray[np.int64]:
        """Allocate `count` rows, int64 [count]: free rows first, then rows that have never been used."""
        self.reserve(count)
        free = int(self.state[1])
        reused = self.free[max(free - count, 0) : free]
        fresh = np.arange(count - len(reused)) + self.used
        self.state += len(fresh), -len(reused)
        return np.concatenate([reused, fresh])

    def release(self, rows: NDArray[np.int64]) -> None:
        """Mark rows, int64 [N], as free."""
        self.array.words[rows, TABLE] = FREE
        self.free = np.concatenate([self.free[: self.state[1]], rows])
        self.state[1] = len(self.free)

    def has_room(self, more: int) -> bool:
        """Return whether `more` unused rows fit into the array without growth."""
        return self.used + more <= len(self.array)

    def reserve(self, more: int) -> None:
        """Reserve memory for `more` rows."""
        if not self.has_room(more):
            self.array = self.array.grown(max(self.used + more, 2 * len(self.array)), self.used)
