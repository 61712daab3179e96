"""Selection of the rows that a full table evicts to admit other ids."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ml.embeddings.collisionless.row_layout import COUNT, ID, TABLE, RowArray
from ml.embeddings.rules import Evict

_AHEAD = 16


def rows_to_evict(
    array: RowArray, used: int, table: int, cap: int, count: int, evict: Evict, kept: Iterable[NDArray[np.int64]]
) -> NDArray[np.int64]:
    """Select rows of a table to evict: at least `count` rows, or all that can be evicted.

    At least one sixteenth of the cap is evicted at once, because the selection scans the whole table.

    Args:
        array: Rows of all tables.
        used: Number of leading rows of `array` that are or have been in use.
        table: Index of the table.
        cap: Cap on the rows of the table.
        count: Number of rows that the table would have beyond its cap.
        evict: Eviction rule. Ties are broken by id.
        kept: Rows that must not be evicted: the rows of the batch, and rows that await an update.

    Returns:
        The rows to evict, int64; empty if the rule is "never".
    """
    if evict == "never":
        return np.empty(0, np.int64)
    candidates = array.words[:used, TABLE] == table
    for rows in kept:
        candidates[rows] = False
    rows = np.flatnonzero(candidates)
    seen, counts = array.seen(rows), array.words[rows, COUNT]
    keys = (seen, counts) if evict == "least_frequently_used" else (counts, seen)
    order = np.lexsort((array.longs[rows, ID], *keys))
    return rows[order[: max(count, cap // _AHEAD)]]
