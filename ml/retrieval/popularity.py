"""Popularity of a trailing window: the most clicked items of the last hour, or of the last ten minutes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ml.retrieval.contexts import NOT_LIVE, Contexts, places
from ml.retrieval.source import Clicks


class Popularity:
    """Scores an item by its clicks in `[now - window, now)`, for every request alike.

    Args:
        window: width of the window in microseconds.

    Example:
        >>> popularity = Popularity(window=60)
        >>> contexts = Contexts.of([[], [], []])
        >>> popularity.observe(Clicks(np.array([0, 50, 70]), np.array([5, 6, 6]), contexts))
        >>> popularity.refresh(now=100, items=np.array([5, 6]))
        >>> popularity.counts.tolist()
        [0, 2]
        >>> popularity.scores(Contexts.of([[5]])).tolist()
        [[0.0, 2.0]]
    """

    def __init__(self, window: int) -> None:
        self.window = window
        self.counts = np.zeros(0, np.int64)
        """int64 [L]: clicks of each live item, as of the last refresh."""
        self._time, self._item = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._pending: list[Clicks] = []

    def observe(self, clicks: Clicks) -> None:
        """Learn from clicks; see `CandidateSource.observe`."""
        self._pending.append(clicks)

    def refresh(self, now: int, items: NDArray[np.int64]) -> None:
        """Count the clicks of the window; see `CandidateSource.refresh`."""
        time = np.concatenate([self._time, *(clicks.time for clicks in self._pending)])
        item = np.concatenate([self._item, *(clicks.item for clicks in self._pending)])
        first, end = np.searchsorted(time, (now - self.window, now))
        self._time, self._item, self._pending = time[first:], item[first:], []
        at = places(self._item[: end - first], items)
        self.counts = np.bincount(at[at != NOT_LIVE], minlength=len(items))

    def scores(self, contexts: Contexts) -> NDArray[np.float32]:
        """Return the counts for each request; see `CandidateSource.scores`."""
        return np.broadcast_to(self.counts.astype(np.float32), (len(contexts), len(self.counts)))
