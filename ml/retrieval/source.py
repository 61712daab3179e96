"""What a standing candidate source is: it learns from clicks and ranks live items for requests, without a trained model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ml.retrieval.contexts import Contexts


@dataclass(frozen=True)
class Clicks:
    """N clicks in time order.

    Attributes:
        time: int64 [N], microseconds since 1970 UTC.
        item: int64 [N], ids of the clicked items.
        contexts: the items that each click's session clicked before it.
    """

    time: NDArray[np.int64]
    item: NDArray[np.int64]
    contexts: Contexts

    def __len__(self) -> int:
        """Number N of clicks."""
        return len(self.time)

    def rows(self, start: int, stop: int) -> Clicks:
        """Return the clicks `[start, stop)`."""
        return Clicks(self.time[start:stop], self.item[start:stop], self.contexts.rows(start, stop))


class CandidateSource(Protocol):
    """Ranks live items for requests.

    A caller alternates between `observe`, which passes clicks in time order, and `refresh`, which fixes the statistics and the
    catalogue for the requests that follow. Requests change nothing, so that threads can share a source between refreshes.
    """

    def observe(self, clicks: Clicks) -> None:
        """Learn from clicks, none of which is earlier than one that was passed before."""
        ...

    def refresh(self, now: int, items: NDArray[np.int64]) -> None:
        """Fix the statistics as of a point in time.

        Args:
            now: microseconds since 1970 UTC. Clicks at `now` or later are not used.
            items: int64 [L], ids of the live items, ascending.
        """
        ...

    def scores(self, contexts: Contexts) -> NDArray[np.float32]:
        """Score all live items for B requests.

        Args:
            contexts: the items that each request's session clicked before.

        Returns:
            float32 [B, L]: higher is better. The array can be a read-only view.
        """
        ...
