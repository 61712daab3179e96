"""Histories: the last items of a user before a row. The row's own item and later items are excluded."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from ml.catalog.spec import DatasetSpec
from ml.features.hashing import hash_values
from ml.features.point_in_time.negatives import Events
from ml.features.point_in_time.windows import EVER, Timeline
from ml.schema import EVENT_TIME, HISTORY_PREFIX


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
    timeline = Timeline.of(events.user, events.time)
    offsets, places = timeline.last(user, time, EVER, most)
    return offsets, timeline.place[places]


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
