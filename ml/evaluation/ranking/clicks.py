"""Reads the keys of a day's clicks: item, session and the items that the session clicked before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml.catalog.spec import DatasetSpec, Ranking
from ml.days import MICROSECONDS_PER_MINUTE
from ml.evaluation.rows import chunks
from ml.hashing import mix64_array
from ml.lake import Lake
from ml.retrieval.contexts import session_contexts
from ml.retrieval.source import Clicks
from ml.schema import EVENT_TIME, ITEM_KEY, LABEL, SESSION_KEY, USER_KEY


@dataclass(frozen=True)
class DayClicks:
    """The N clicks in reach of a day, and M rows of shown items.

    Attributes:
        clicks: The N clicks.
        whose: int64 [N], id of the session, or of the user if the dataset has no session.
        gap: int64 [N], microseconds since the event before in the session; -1 without one.
        first: Number of the clicks before the day. The others are the requests.
        row_time: int64 [M], event times of rows that make their item live.
        row_item: int64 [M], their items.
    """

    clicks: Clicks
    whose: NDArray[np.int64]
    gap: NDArray[np.int64]
    first: int
    row_time: NDArray[np.int64]
    row_item: NDArray[np.int64]

    @property
    def requests(self) -> int:
        """Number of clicks of the day."""
        return len(self.clicks) - self.first


def read_clicks(
    spec: DatasetSpec, asked: Ranking, day: str, lake: Lake, earlier: Sequence[str], reach: int, begin: int
) -> DayClicks:
    """Read the keys of all rows in reach, and derive the contexts of all clicks.

    Args:
        spec: The dataset.
        asked: `spec.ranked`.
        day: The day to rank, `YYYY-MM-DD`.
        lake: Where features are stored.
        earlier: Days with features before `day` that are in reach, ascending.
        reach: First event time to read, in microseconds since 1970 UTC.
        begin: Start of the day.
    """
    owner = SESSION_KEY if spec.session else USER_KEY
    columns = [EVENT_TIME, LABEL, ITEM_KEY, owner]
    parts: list[list[NDArray[Any]]] = [[np.zeros(0, np.int64)] for _ in columns]
    for other in (*earlier, day):
        for chunk in chunks(lake, spec, other, columns):
            late = chunk[EVENT_TIME].to_numpy() >= reach
            if late.any():
                for part, name in zip(parts, columns, strict=True):
                    part.append(chunk[name].to_numpy()[late])
    time, label, item, whose = (np.concatenate(part) for part in parts)
    clicked = label > 0.5
    idle = None if spec.session else round(asked.idle_minutes * MICROSECONDS_PER_MINUTE)
    own_time, own_item = time[clicked], item[clicked]
    contexts = session_contexts(whose[clicked], own_time, own_item, asked.context, idle)
    clicks = Clicks(own_time, own_item, contexts.contexts)
    shown = clicked if spec.label.negatives else np.ones(len(time), np.bool_)
    return DayClicks(clicks, whose[clicked], contexts.gap, int(np.searchsorted(own_time, begin)), time[shown], item[shown])


def sampled_requests(found: DayClicks, live_for: int, pairs: int) -> NDArray[np.bool_]:
    """Choose the requests that are ranked by models that score pairs.

    Args:
        found: The clicks of a day.
        live_for: Microseconds for which an item is live.
        pairs: Approximate number of pairs of a request and a live item.

    Returns:
        bool [requests].
    """
    count = found.requests
    if not count:
        return np.zeros(0, np.bool_)
    # The number of live items varies over the day, so it is averaged over the times of 8 requests.
    times = np.quantile(found.clicks.time[found.first :], np.linspace(0.05, 0.95, 8), method="nearest")
    live = []
    for time in times:
        start, stop = np.searchsorted(found.row_time, (time - live_for, time))
        live.append(len(np.unique(found.row_item[start:stop])))
    share = min(1.0, pairs / (count * max(1.0, float(np.mean(live)))))
    draws = mix64_array(np.arange(1, count + 1, dtype=np.uint64))
    return draws.astype(np.float64) < share * 2.0**64
