"""Statistics of the published rows of one table: a projection of their weights, and how often they change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

PROJECTIONS = 4
"""Numbers that a row is projected to. The estimate of a distance has a standard error of about 35 %."""


class Ledger:
    """One entry per row, sorted by key: 32 bytes for a row of any width.

    Args:
        decay: Factor on a row's traffic per delta.
        arrays: The entries, as `arrays` returns them.

    Example:
        >>> ledger = Ledger.of(decay=0.8, dim=2)
        >>> ledger.published(np.array([7]), np.ones((1, 2), np.float32), number=1)
        >>> ledger.changed(np.array([7, 9]), number=2)
        >>> ledger.change_times_traffic(np.array([7]), np.ones((1, 2), np.float32), number=2)
        array([0.])
    """

    def __init__(self, decay: float, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._decay = decay
        self._keys: NDArray[np.int64] = arrays["keys"]
        self._published: NDArray[np.float32] = arrays["published"]  # projected weights, [N, PROJECTIONS]
        self._traffic: NDArray[np.float32] = arrays["traffic"]  # at the last change
        self._last: NDArray[np.int32] = arrays["last"]  # number of the delta with the last change
        self._signs: NDArray[np.float32] = arrays["signs"]  # [D, PROJECTIONS]

    @classmethod
    def of(cls, decay: float, dim: int) -> Ledger:
        """Create a ledger without entries for rows of `dim` weights."""
        signs = np.random.default_rng(0).choice([-1.0, 1.0], (dim, PROJECTIONS)) / PROJECTIONS**0.5
        arrays = {
            "keys": np.empty(0, np.int64),
            "published": np.empty((0, PROJECTIONS), np.float32),
            "traffic": np.empty(0, np.float32),
            "last": np.empty(0, np.int32),
            "signs": signs.astype(np.float32),
        }
        return cls(decay, arrays)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return all arrays, from which `Ledger` continues."""
        of_rows = {"keys": self._keys, "published": self._published, "traffic": self._traffic, "last": self._last}
        return of_rows | {"signs": self._signs}

    def published(self, keys: NDArray[np.int64], weights: NDArray[np.float32], number: int) -> None:
        """Record that receivers have these weights, float32 [U, D]. keys: int64 [U], in ascending order."""
        at = self._at(keys, number)
        self._published[at] = weights @ self._signs

    def changed(self, keys: NDArray[np.int64], number: int) -> None:
        """Count a change of each row in the delta `number`. keys: int64 [U], in ascending order."""
        at = self._at(keys, number)
        self._traffic[at] = self._current(at, number) + np.float32(1 - self._decay)
        self._last[at] = number

    def delete(self, keys: NDArray[np.int64]) -> None:
        """Delete the entries of deleted ids."""
        if len(keys):
            kept = ~np.isin(self._keys, keys)
            self._keys, self._published = self._keys[kept], self._published[kept]
            self._traffic, self._last = self._traffic[kept], self._last[kept]

    def change_times_traffic(self, keys: NDArray[np.int64], weights: NDArray[np.float32], number: int) -> NDArray[np.float64]:
        """Estimate distance to the published weights, times traffic, float64 [U]. keys: int64 [U], in ascending order."""
        at = self._at(keys, number)
        distance = np.linalg.norm(weights @ self._signs - self._published[at], axis=1)
        return (distance * self._current(at, number)).astype(np.float64)

    def _current(self, at: NDArray[np.int64], number: int) -> NDArray[np.float32]:
        return self._traffic[at] * np.float32(self._decay) ** (number - self._last[at]).astype(np.float32)

    def _at(self, keys: NDArray[np.int64], number: int) -> NDArray[np.int64]:
        """Return the index of each key, int64 [U]. New keys are inserted, without traffic and with zeros as weights."""
        at = np.searchsorted(self._keys, keys)
        known = at < len(self._keys)
        known[known] = self._keys[at[known]] == keys[known]
        if known.all():
            return at
        new, places = keys[~known], at[~known]
        self._keys = np.insert(self._keys, places, new)
        self._published = np.insert(self._published, places, 0, axis=0)
        self._traffic, self._last = np.insert(self._traffic, places, 0), np.insert(self._last, places, number)
        return np.searchsorted(self._keys, keys)
