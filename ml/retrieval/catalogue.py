"""The catalogue of live items: those that had a row in the hours before, each with the features of its last row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ml.schema import MISSING_ID


@dataclass(frozen=True)
class LiveItems:
    """L items.

    Attributes:
        ids: int64 [L], ascending.
        features: the L rows of features, in the same order.
    """

    ids: NDArray[np.int64]
    features: pa.Table

    def __len__(self) -> int:
        """Number L of items."""
        return len(self.ids)


class Catalogue:
    """Keeps the last row of each item.

    Args:
        window: microseconds for which an item stays live after a row.

    Example:
        >>> catalogue = Catalogue(window=100)
        >>> rows = pa.table({"price": [1.0, 2.0, 3.0]})
        >>> catalogue.add(np.array([0, 10, 20]), np.array([7, 5, 7]), rows)
        >>> live = catalogue.live(now=50)
        >>> live.ids.tolist(), live.features["price"].to_pylist()
        ([5, 7], [2.0, 3.0])
        >>> len(catalogue.live(now=111))
        1
    """

    def __init__(self, window: int) -> None:
        self.window = window
        self._times: list[NDArray[np.int64]] = []
        self._ids: list[NDArray[np.int64]] = []
        self._rows: list[pa.Table] = []

    def add(self, time: NDArray[np.int64], ids: NDArray[np.int64], features: pa.Table) -> None:
        """Add N rows in time order, none earlier than one that was added before.

        Args:
            time: int64 [N], microseconds since 1970 UTC.
            ids: int64 [N]; rows without an item (`MISSING_ID`) are left out.
            features: N rows, with the same columns at each call.
        """
        self._times.append(time)
        self._ids.append(ids)
        self._rows.append(features)

    def live(self, now: int) -> LiveItems | None:
        """Return the items with a row in `[now - window, now)`, or None if nothing was ever added.

        Rows that are added must be earlier than `now`. Older rows of an item, and items that are no longer live, are dropped.
        """
        if not self._rows:
            return None
        times, ids = np.concatenate(self._times), np.concatenate(self._ids)
        first = int(np.searchsorted(times, now - self.window))
        # Of each item, the first row in reverse order.
        found, last = np.unique(ids[first:][::-1], return_index=True)
        last = (len(ids) - 1 - last)[found != MISSING_ID]
        features = pa.concat_tables(self._rows).take(pa.array(last)).combine_chunks()
        order = np.argsort(last)  # what is kept for the next call is in time order
        self._times, self._ids = [times[last[order]]], [ids[last[order]]]
        self._rows = [features.take(pa.array(order))]
        return LiveItems(ids[last], features)
