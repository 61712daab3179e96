"""Trailing counts: the number of an item's events in the hours before a row. The row's own event is excluded.

If negatives are sampled, this feature separates items that are popular now from items of yesterday before their ids have been
learnt. It must not reveal which rows are sampled. Every sampled item has an event in the sampling window, so a count of 0 over
that window or a longer one would mark a positive. Such counts are therefore at least 1.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from ml.catalog.spec import Negatives
from ml.days import MICROSECONDS_PER_HOUR
from ml.features.hashing import hash_values
from ml.features.point_in_time.negatives import Events
from ml.features.point_in_time.windows import Timeline
from ml.schema import EVENT_TIME


def recent_counts(events: Events, item: np.ndarray, time: np.ndarray, negatives: Negatives) -> dict[str, np.ndarray]:
    """Counts the events of each row's item in `[time - hours, time)`, for the hours of each entry of `negatives.recent`.

    Args:
        events: The log; it must start early enough for the first row's longest window.
        item: int64 [N], hashed items of the rows. A missing item (0) has no events.
        time: int64 [N], event times of the rows in microseconds.
        negatives: The catalog entry's settings of negatives. Counts over `window_hours` or longer are at least 1.

    Returns:
        int64 [N] counts by name.
    """
    timeline, found = Timeline.of(events.item, events.time), {}
    for name, hours in negatives.recent.items():
        counts = timeline.count(item, time, round(hours * MICROSECONDS_PER_HOUR))
        found[name] = np.maximum(counts, 1) if hours >= negatives.window_hours else counts
    return found


def with_recent(rows: pa.Table, item: str, events: Events, negatives: Negatives) -> pa.Table:
    """Appends an int64 column for each entry of `negatives.recent`.

    Args:
        rows: N rows, with event_time and the item column.
        item: Name of the item column.
        events: The log.
        negatives: The catalog entry's settings of negatives, as for `recent_counts`.

    Returns:
        The rows with the columns appended.
    """
    if not negatives.recent:
        return rows
    items, times = hash_values("item", rows[item].combine_chunks()), rows[EVENT_TIME].to_numpy()
    for name, counts in recent_counts(events, items, times, negatives).items():
        rows = rows.append_column(name, pa.array(counts))
    return rows
