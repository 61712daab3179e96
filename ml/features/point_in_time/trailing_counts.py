"""How busy an item has been: its events in the hours before a row, never the row's own nor a later one.

Beside sampled negatives this is what tells a story of the hour from one of yesterday before its id has been learnt. It must not
tell how negatives are drawn: every candidate has an event in the window, so over the window or longer no row counts fewer
than 1, or a count of 0 would say that the row is a positive.
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
    # times: of each item's events, ascending, item after item; starts, ends: where those of a row's item lie.
    out = np.empty(len(query_times), np.int64)
    for i in range(len(query_times)):
        of_item = times[starts[i] : ends[i]]
        out[i] = np.searchsorted(of_item, query_times[i]) - np.searchsorted(of_item, query_times[i] - span)
    return out


def count_recent(events: Events, item: np.ndarray, time: np.ndarray, hours: float) -> np.ndarray:
    """int64 [N]: events of each row's item in [time - hours, time). item: int64 [N], hashed as `events` are; time: [N], µs.

    `events` must reach back as far. A row without an item (0) has none.
    """
    order = np.argsort(events.item, kind="stable")  # events are in time order, and stay so within an item
    items, times = events.item[order], events.time[order]
    starts, ends = np.searchsorted(items, item, side="left"), np.searchsorted(items, item, side="right")
    return np.where(item == MISSING_ID, 0, _counts(starts, ends, times, time, round(hours * MICROSECONDS_PER_HOUR)))


def with_recent(rows: pa.Table, item: str, events: Events, negatives: Negatives) -> pa.Table:
    """rows [N] with a column for each of `negatives.recent`."""
    if not negatives.recent:
        return rows
    items, times = hash_values("item", rows[item].combine_chunks()), rows[EVENT_TIME].to_numpy()
    for name, hours in negatives.recent.items():
        counts = count_recent(events, items, times, hours)
        rows = rows.append_column(name, pa.array(np.maximum(counts, 1) if hours >= negatives.window_hours else counts))
    return rows
