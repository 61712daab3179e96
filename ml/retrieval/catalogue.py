"""The catalogue of live items: those that were shown or clicked in the hours before, with the features of their last rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ml.schema import MISSING_ID

_NEVER = np.iinfo(np.int64).min


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
        self._seen: list[NDArray[np.int64]] = []  # time of each row that makes its item live, else `_NEVER`
        self._ids: list[NDArray[np.int64]] = []
        self._rows: list[pa.Table] = []

    def add(
        self, time: NDArray[np.int64], ids: NDArray[np.int64], features: pa.Table, shown: NDArray[np.bool_] | None = None
    ) -> None:
        """Add N rows in time order, none earlier than one that was added before.

        Args:
            time: int64 [N], microseconds since 1970 UTC.
            ids: int64 [N]; rows without an item (`MISSING_ID`) are left out.
            features: N rows, with the same columns at each call.
            shown: bool [N], rows that make their item live; by default all. The others, such as sampled negatives, only bring
                newer features.
        """
        self._seen.append(time if shown is None else np.where(shown, time, _NEVER))
        self._ids.append(ids)
        self._rows.append(features)

    def live(self, now: int) -> LiveItems | None:
        """Return the items that became live in `[now - window, now)`, or None if nothing was ever added.

        Rows that are added must be earlier than `now`. Older rows of an item, and items that are no longer live, are dropped.
        """
        if not self._rows:
            return None
        seen, ids = np.concatenate(self._seen), np.concatenate(self._ids)
        # Of each item, the last row and the last time at which it was shown.
        items, row, item_of = np.unique(ids[::-1], return_index=True, return_inverse=True)
        last_row, last_seen = len(ids) - 1 - row, np.full(len(items), _NEVER)
        np.maximum.at(last_seen, item_of, seen[::-1])
        kept = (last_seen >= now - self.window) & (items != MISSING_ID)
        features = pa.concat_tables(self._rows).take(pa.array(last_row[kept])).combine_chunks()
        self._seen, self._ids, self._rows = [last_seen[kept]], [items[kept]], [features]
        return LiveItems(items[kept], features)
