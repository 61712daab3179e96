"""What a user has taken before: her last items before a row, never the row's own nor a later one."""

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
    # times, places: of each user's events, ascending, user after user; starts, ends: where those of a row's user lie.
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
    """Of each row's user, the places in `events` of at most so many events before the row, newest first: offsets int32 [N + 1]
    and places int64. user: int64 [N], hashed as `events` are; time: [N], µs. A row without a user (0) has none.
    """
    order = np.argsort(events.user, kind="stable")  # events are in time order, and stay so within a user
    users, times = events.user[order], events.time[order]
    starts, ends = np.searchsorted(users, user, side="left"), np.searchsorted(users, user, side="right")
    return _last(starts, np.where(user == MISSING_ID, starts, ends), times, order, time, most)


def with_history(rows: pa.Table, spec: DatasetSpec, events: Events) -> pa.Table:
    """rows [N] with a column for each feature that is a history: list<int64>, ids as those of the feature of the item."""
    wanted = [column for column in spec.sparse if column.history]
    if not wanted or spec.user is None:
        return rows
    users, times = hash_values("user", rows[spec.user].combine_chunks()), rows[EVENT_TIME].to_numpy()
    ids = hash_values(spec.item_feature or "", events.values)
    for column in wanted:
        offsets, places = last_items(events, users, times, column.history or 0)
        rows = rows.append_column(
            HISTORY_PREFIX + column.name, pa.ListArray.from_arrays(pa.array(offsets), pa.array(ids[places]))
        )
    return rows
