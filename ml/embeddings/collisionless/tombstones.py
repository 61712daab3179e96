"""Tombstones: records of deleted ids. Deltas contain them, so that receivers delete the same rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Tombstones:
    """Deleted ids by the step of their deletion. Deltas can start from `oldest_step` or later.

    Example:
        >>> tombstones = Tombstones()
        >>> tombstones.add(5, np.array([0, 1]), np.array([70, 80]))
        >>> tombstones.since(4).tolist()
        [[5, 0, 70], [5, 1, 80]]
        >>> tombstones.trim(5)
        >>> len(tombstones), tombstones.oldest_step
        (0, 5)
    """

    def __init__(self) -> None:
        self.oldest_step = 0
        self._parts: list[NDArray[np.int64]] = []  # int64 [G, 3] per step, in ascending order of steps

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def add(self, step: int, tables: NDArray[np.int64], ids: NDArray[np.int64]) -> None:
        """Record that ids, int64 [G], were deleted from tables, int64 [G], at a step."""
        if len(ids):
            self._parts.append(np.stack([np.full(len(ids), step), tables, ids], axis=1))

    def replace(self, step: int, tables: NDArray[np.int64], ids: NDArray[np.int64]) -> None:
        """Replace the tombstones of a step."""
        self._parts = [part for part in self._parts if part[0, 0] != step]
        self.add(step, tables, ids)

    def since(self, step: int) -> NDArray[np.int64]:
        """Return the tombstones of deletions after a step, int64 [G, 3]: step, table and id."""
        return np.concatenate([np.empty((0, 3), np.int64), *(part for part in self._parts if part[0, 0] > step)])

    def trim(self, step: int) -> None:
        """Delete tombstones up to and including a step. Deltas can then only start from that step or later."""
        self._parts = [part for part in self._parts if part[0, 0] > step]
        self.oldest_step = max(self.oldest_step, step)

    def to_rows(self) -> NDArray[np.int64]:
        """Return all tombstones, int64 [G, 3], sorted by step, table and id."""
        return sort_tombstones(self.since(-1))

    def restore(self, rows: NDArray[np.int64], oldest_step: int) -> None:
        """Replace all tombstones with those that `to_rows` returned."""
        self._parts = np.split(rows, np.flatnonzero(np.diff(rows[:, 0])) + 1) if len(rows) else []
        self.oldest_step = oldest_step


def sort_tombstones(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sort tombstones, int64 [G, 3], by step, table and id."""
    return rows[np.lexsort((rows[:, 2], rows[:, 1], rows[:, 0]))]
