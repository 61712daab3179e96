"""Which rows a full table deletes to admit other ids."""

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
    """Selects at least `count` rows of a table, unless fewer may be evicted.

    A sixteenth of a full table is evicted at once, because finding the rows takes a scan of the whole table.

    Args:
        array: The rows of all tables.
        used: Number of rows in `array` that are or were in use.
        table: Number of the table.
        cap: Most rows that the table may have.
        count: Number of rows that it is over its cap.
        evict: The rule. Rows that are equal by it are evicted in the order of their ids.
        kept: Rows that must stay: those of the batch, and those that await an update.

    Returns:
        Rows, int64; none if the rule is "never".
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
