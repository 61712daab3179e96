"""Histories: the last items of a user before a row. The row's own item and later items are excluded."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from ml.catalog.spec import DatasetSpec
from ml.compute.kernel_cache import jit
from ml.features.hashing import hash_values
from ml.features.point_in_time.negatives import Events
from ml.schema import EVENT_TIME, HISTORY_PREFIX, MISSING_ID


@jit
def _last(starts, ends, times, places, query_times, most):  # type: ignore[no-untyped-def]
    # times, places: times and indices of the events, grouped by user, ascending within a user.
    # starts, ends: the range of the events of each row's user.
    offsets = np.zeros(len(query_times) + 1, np.int32)
    found = np.empty(len(query_times) * most, np.int64)
    n = 0
    for i in range(len(query_times)):
        before = starts[i] + np.searchsorted(times[starts[i] : ends[i]], query_times[i])
        for at in range(before - 1, max(starts[i], before - most) - 1, -1):
            found[n] = places[at]
            n += 1
        offsets[i + 1] = n
    return offsets, found[:n].copy()


def last_items(events: Events, user: np.ndarray, time: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Finds the last events of each row's user before the row.

    Args:
        events: The log.
        user: int64 [N], hashed users of the rows. A missing user (0) has no events.
        time: int64 [N], event times of the rows in microseconds.
        most: Maximum number of events per row.

    Returns:
        int32 offsets [N + 1] into the second array, and int64 indices of events, newest first in each row.
    """
    order = np.argsort(events.user, kind="stable")  # stable, so the events of a user stay in time order
    users, times = events.user[order], events.time[order]
    starts, ends = np.searchsorted(users, user, side="left"), np.searchsorted(users, user, side="right")
    return _last(starts, np.where(user == MISSING_ID, starts, ends), times, order, time, most)


def with_history(rows: pa.Table, spec: DatasetSpec, events: Events) -> pa.Table:
    """Appends a column of ids for each history feature.

    Args:
        rows: N rows, with event_time and the user column.
        spec: The dataset.
        events: The log.

    Returns:
        The rows with a list<int64> column per history feature. The ids equal the ids of the item's feature.
    """
    wanted = [column for column in spec.sparse if isinstance(column.history, int)]
    if not wanted or spec.user is None:
        return rows
    users, times = hash_values("user", rows[spec.user].combine_chunks()), rows[EVENT_TIME].to_numpy()
    ids = hash_values(spec.item_feature or "", events.values)
    for column in wanted:
        offsets, places = last_items(events, users, times, spec.history_of(column)[1])
        rows = rows.append_column(
            HISTORY_PREFIX + column.name, pa.ListArray.from_arrays(pa.array(offsets), pa.array(ids[places]))
        )
    return rows
