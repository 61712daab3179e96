"""Trailing counts: the number of an item's events in the hours before a row. The row's own event is excluded.

If negatives are sampled, this feature separates items that are popular now from items of yesterday before their ids have been
learnt. It must not reveal which rows are sampled. Every sampled item has an event in the sampling window, so a count of 0 over
that window or a longer one would mark a positive. Such counts are therefore at least 1.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from ml.catalog.spec import Negatives
from ml.compute.kernel_cache import jit
from ml.days import MICROSECONDS_PER_HOUR
from ml.features.hashing import hash_values
from ml.features.point_in_time.negatives import Events
from ml.schema import EVENT_TIME, MISSING_ID


@jit
def _counts(starts, ends, times, query_times, span):  # type: ignore[no-untyped-def]
    # times: times of the events, grouped by item, ascending within an item.
    # starts, ends: the range of the events of each row's item.
    out = np.empty(len(query_times), np.int64)
    for i in range(len(query_times)):
        of_item = times[starts[i] : ends[i]]
        out[i] = np.searchsorted(of_item, query_times[i]) - np.searchsorted(of_item, query_times[i] - span)
    return out


def count_recent(events: Events, item: np.ndarray, time: np.ndarray, hours: float) -> np.ndarray:
    """Counts the events of each row's item in `[time - hours, time)`.

    Args:
        events: The log; it must start early enough for the first row's window.
        item: int64 [N], hashed items of the rows. A missing item (0) has no events.
        time: int64 [N], event times of the rows in microseconds.
        hours: Length of the window.

    Returns:
        int64 [N] counts.
    """
    order = np.argsort(events.item, kind="stable")  # stable, so the events of an item stay in time order
    items, times = events.item[order], events.time[order]
    starts, ends = np.searchsorted(items, item, side="left"), np.searchsorted(items, item, side="right")
    return np.where(item == MISSING_ID, 0, _counts(starts, ends, times, time, round(hours * MICROSECONDS_PER_HOUR)))


def with_recent(rows: pa.Table, item: str, events: Events, negatives: Negatives) -> pa.Table:
    """Appends an int64 column for each entry of `negatives.recent`.

    Args:
        rows: N rows, with event_time and the item column.
        item: Name of the item column.
        events: The log.
        negatives: The catalog entry's settings of negatives. Counts over `window_hours` or longer are at least 1.

    Returns:
        The rows with the columns appended.
    """
    if not negatives.recent:
        return rows
    items, times = hash_values("item", rows[item].combine_chunks()), rows[EVENT_TIME].to_numpy()
    for name, hours in negatives.recent.items():
        counts = count_recent(events, items, times, hours)
        rows = rows.append_column(name, pa.array(np.maximum(counts, 1) if hours >= negatives.window_hours else counts))
    return rows
