"""Allocation of rows: which rows of an array that grows are in use."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ml.embeddings.collisionless.row_layout import DEFAULT, FREE, TABLE, RowArray

_FIRST_ROWS = 1024


class RowPool:
    """Rows of `width` words each. Row 0 is the default row, and never allocated.

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
        self.state = np.array([DEFAULT + 1, 0], np.int64)  # the next row that was never used; free rows

    @property
    def used(self) -> int:
        """Number of rows that are or were in use: all rows are below it."""
        return int(self.state[0])

    def take(self, count: int) -> NDArray[np.int64]:
        """Returns `count` rows that are not in use: free ones first, then rows that were never used."""
        self.reserve(count)
        free = int(self.state[1])
        reused = self.free[max(free - count, 0) : free]
        fresh = np.arange(count - len(reused)) + self.used
        self.state += len(fresh), -len(reused)
        return np.concatenate([reused, fresh])

    def release(self, rows: NDArray[np.int64]) -> None:
        """Marks rows, int64 [N], as free."""
        self.array.words[rows, TABLE] = FREE
        self.free = np.concatenate([self.free[: self.state[1]], rows])
        self.state[1] = len(self.free)

    def has_room(self, more: int) -> bool:
        """Whether `more` rows can be taken without more memory."""
        return self.used + more <= len(self.array)

    def reserve(self, more: int) -> None:
        """Makes room for `more` rows."""
        if not self.has_room(more):
            self.array = self.array.grown(max(self.used + more, 2 * len(self.array)), self.used)
