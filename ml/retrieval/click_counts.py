"""Counts of clicks in trailing windows, overall and by the values of context columns, and when items were clicked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml.days import MICROSECONDS_PER_HOUR, MICROSECONDS_PER_MINUTE
from ml.retrieval.contexts import NOT_LIVE, places
from ml.retrieval.interactions import SIGNAL_HOURS

WINDOWS = (10, 60, 360)
"""Minutes."""
VALUES = 64
"""Most values of a context column whose clicks are counted; the others have no lift."""
_BLEND = 20.0  # clicks of the hour that smooth the share of the last ten minutes
_PRIOR = 30.0  # clicks of overall popularity that smooth the share within a value


@dataclass(frozen=True)
class ClickSnapshot:
    """Clicks of L live items as of a point in time.

    Attributes:
        counts: int64 [L] for each of `WINDOWS`.
        share: float32 [L], share of the clicks of the last hour.
        log_shares: float32 [L] for each of `WINDOWS`, logarithms of smoothed shares.
        rank: float32 [L], place by clicks of the last hour, 0 for the most clicked.
        values: For each context column int64 [V], the codes whose clicks are counted, ascending.
        lifts: For each column float32 [V + 1, L], log of the share within each of V values over the overall share; the last
            row, for all other values, is 0.
        first_seen, last_seen: float64 [L], microseconds since 1970 UTC of the first and of the last click within
            `SIGNAL_HOURS`, NaN without one. They do not depend on how long clicks have been observed.
    """

    counts: list[NDArray[np.int64]]
    share: NDArray[np.float32]
    log_shares: list[NDArray[np.float32]]
    rank: NDArray[np.float32]
    values: list[NDArray[np.int64]]
    lifts: list[NDArray[np.float32]]
    first_seen: NDArray[np.float64]
    last_seen: NDArray[np.float64]

    def rows(self, codes: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Return for each column the rows of `lifts`, int64 [B], of codes [B, C]."""
        found = [places(codes[:, c], values) for c, values in enumerate(self.values)]
        return [np.where(at == NOT_LIVE, len(v), at) for at, v in zip(found, self.values, strict=True)]


class ClickCounts:
    """Counts clicks of live items.

    Args:
        columns: Number C of context columns.
    """

    def __init__(self, columns: int) -> None:
        self._time, self._item, self._codes = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, columns), np.int64)
        self._pending: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]] = []
        self._ids, self._first, self._last = (np.zeros(0, np.int64) for _ in range(3))

    def observe(self, time: NDArray[np.int64], item: NDArray[np.int64], codes: NDArray[np.int64]) -> None:
        """Add N clicks in time order: times [N], items [N] and codes [N, C]."""
        self._pending.append((time, item, codes))

    def refresh(self, now: int, items: NDArray[np.int64]) -> ClickSnapshot:
        """Count the clicks before `now` of L live items, given in ascending order."""
        self._merge(now)
        place = places(self._item, items)
        live = place != NOT_LIVE
        starts = [int(np.searchsorted(self._time, now - minutes * MICROSECONDS_PER_MINUTE)) for minutes in WINDOWS]
        counts = [np.bincount(place[s:][live[s:]], minlength=len(items)) for s in starts]
        ten, hour, six = counts
        total = [max(1, int(of.sum())) for of in counts]
        smooth = (hour + 0.05 * six * total[1] / total[2] + 1e-3) / (1.05 * total[1] + 1)
        shares = [(ten + _BLEND * smooth) / (total[0] + _BLEND), smooth, (six + 0.1) / total[2]]
        rank = np.empty(len(items), np.float32)
        rank[np.argsort(-hour, kind="stable")] = np.arange(len(items))
        at = places(items, self._ids)
        known, reach = at != NOT_LIVE, now - SIGNAL_HOURS * MICROSECONDS_PER_HOUR
        first_seen, last_seen = np.full(len(items), np.nan), np.full(len(items), np.nan)
        first_seen[known] = np.maximum(self._first[at[known]], reach)
        last_seen[known] = self._last[at[known]]
        start = starts[1]
        codes, of_hour = self._codes[start:][live[start:]], place[start:][live[start:]]
        lifts = [_lift(codes[:, c], of_hour, smooth) for c in range(codes.shape[1])]
        return ClickSnapshot(
            counts,
            (hour / total[1]).astype(np.float32),
            [np.log(of).astype(np.float32) for of in shares],
            rank,
            [values for values, _ in lifts],
            [lift for _, lift in lifts],
            first_seen,
            last_seen,
        )

    def _merge(self, now: int) -> None:
        """Take new clicks, and drop those that no window reaches."""
        held = [(self._time, self._item, self._codes), *self._pending]
        time, item, codes = (np.concatenate([part[n] for part in held]) for n in range(3))
        new = [np.concatenate([part[n] for part in self._pending]) if self._pending else np.zeros(0, np.int64) for n in (0, 1)]
        ids = np.concatenate([self._ids, new[1]])
        self._ids, at = np.unique(ids, return_inverse=True)
        first, last = np.full(len(self._ids), np.iinfo(np.int64).max), np.full(len(self._ids), np.iinfo(np.int64).min)
        np.minimum.at(first, at, np.concatenate([self._first, new[0]]))
        np.maximum.at(last, at, np.concatenate([self._last, new[0]]))
        kept = last >= now - SIGNAL_HOURS * MICROSECONDS_PER_HOUR
        self._ids, self._first, self._last, self._pending = self._ids[kept], first[kept], last[kept], []
        reach = int(np.searchsorted(time, now - WINDOWS[-1] * MICROSECONDS_PER_MINUTE))
        self._time, self._item, self._codes = time[reach:], item[reach:], codes[reach:]


def _lift(
    codes: NDArray[np.int64], place: NDArray[np.int64], smooth: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the frequent values of a column, and their lifts, from the codes and places of N clicks."""
    values, counts = np.unique(codes, return_counts=True)
    kept = np.sort(np.argsort(-counts, kind="stable")[:VALUES])
    values, counts = values[kept], counts[kept]
    at = places(codes, values)
    ok = at != NOT_LIVE
    within = np.bincount(at[ok] * len(smooth) + place[ok], minlength=len(values) * len(smooth))
    within = within.reshape(len(values), len(smooth))
    lift = np.log((within + _PRIOR * smooth) / (counts[:, None] + _PRIOR) / smooth)
    return values, np.concatenate([lift, np.zeros((1, len(smooth)))]).astype(np.float32)
