"""Session co-visitation: items that were clicked in the same sessions as the items of the request's session.

Each item keeps a ring of the last `ring` items that were clicked in a session with it, in either order. For a request with the
context `c_1, c_2, ...`, newest first, the score of item j is

    s(j) = sum_n decay^(n - 1) * (count_n(j) + shrinkage * p(j)) / (size_n + shrinkage)

where `count_n(j)` is how often j is in the ring of `c_n`, `size_n` the number of entries of this ring, and `p(j)` the share of
the clicks of a trailing window that are on j. Rings of few entries are thus shrunk to popularity. Without a context the score
is `p(j)`. Items of the context itself come last: a session seldom returns to what it has clicked.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml.compute.kernel_cache import jit
from ml.days import MICROSECONDS_PER_HOUR
from ml.retrieval.contexts import NOT_LIVE, Contexts, places
from ml.retrieval.popularity import Popularity
from ml.retrieval.source import Clicks

UNKNOWN = -1  # code of an item that has no ring
SEEN = -1.0  # score of an item of the context


@dataclass(frozen=True)
class CoVisitationSnapshot:
    """What scores L live items as of a point in time. `rings` and `entries` change with later clicks.

    Attributes:
        items: int64 [L], ids of the live items, ascending.
        share: float32 [L], share of the clicks of the trailing window.
        ids: int64 [R], ascending: items that have a ring.
        codes: int32 [R], of the same items: the rows of `rings`.
        rings: int32, codes of other items.
        entries: int64, number of entries that each ring was given so far.
        live_of: int64 by code, places among the live items.
        shrinkage: Weight of popularity, in entries.
        decay: Weight of each item of the context relative to the next newer one.
    """

    items: NDArray[np.int64]
    share: NDArray[np.float32]
    ids: NDArray[np.int64]
    codes: NDArray[np.int32]
    rings: NDArray[np.int32]
    entries: NDArray[np.int64]
    live_of: NDArray[np.int64]
    shrinkage: float
    decay: float

    def scores(self, contexts: Contexts) -> NDArray[np.float32]:
        """Score the live items; see `CandidateSource.scores`."""
        out = np.empty((len(contexts), len(self.items)), np.float32)
        codes, seen = _codes(contexts.items, self.ids, self.codes), contexts.places(self.items)
        held = self.rings, self.entries, self.live_of, self.share
        _score(contexts.offsets, codes, seen, *held, self.shrinkage, self.decay, out)
        return out

    def shares(self, context: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the share of the ring of each of C items that each of N items has, float32 [C, N]."""
        others = _codes(items, self.ids, self.codes)
        out = np.zeros((len(context), len(items)), np.float32)
        for row, code in zip(out, _codes(context, self.ids, self.codes), strict=True):
            if code != UNKNOWN:
                ring = self.rings[code, : self.entries[code]]
                counts = np.bincount(ring[ring != UNKNOWN], minlength=len(self.rings))  # [R]
                row[:] = np.where(others == UNKNOWN, 0, counts[others] / max(1, len(ring)))
        return out


class CoVisitation:
    """Scores live items by the sessions that they share with a request's items.

    Memory: `4 * ring` bytes for each item that was clicked within `keep`.

    Args:
        window: microseconds of the clicks that rings are shrunk to.
        ring: number of entries of an item's ring.
        shrinkage: weight of popularity, in entries.
        decay: weight of each item of the context relative to the next newer one.
        keep: microseconds without a click after which an item's ring is dropped.
        directed: Whether an item's ring holds only items that were clicked after it.

    Attributes:
        current: What scores the items of the last `refresh`. It stays usable after further ones.

    Example:
        >>> source, items = CoVisitation(window=100), np.array([5, 6, 7])
        >>> source.observe(Clicks(np.array([1, 2]), np.array([5, 7]), Contexts.of([[], [5]])))
        >>> source.refresh(now=10, items=items)
        >>> items[source.scores(Contexts.of([[5]])).argmax()]
        np.int64(7)
    """

    def __init__(
        self,
        window: int = MICROSECONDS_PER_HOUR,
        ring: int = 1000,
        shrinkage: float = 10.0,
        decay: float = 0.7,
        keep: int = 48 * MICROSECONDS_PER_HOUR,
        directed: bool = False,
    ) -> None:
        self.shrinkage, self.decay, self.keep, self.directed = shrinkage, decay, keep, directed
        self._popularity = Popularity(window)
        self._ids = np.zeros(0, np.int64)  # ascending: items that have a ring
        self._codes = np.zeros(0, np.int32)  # of the same items: the rows of `_rings`
        self._rings = np.zeros((0, ring), np.int32)  # codes of other items
        self._entries = np.zeros(0, np.int64)  # number of entries that each ring was given so far
        self._last = np.zeros(0, np.int64)  # time of each item's last click
        self.current = self._snapshot(np.zeros(0, np.int64), np.zeros(0, np.int64))

    def observe(self, clicks: Clicks) -> None:
        """Add each click to the rings of its context, and its context to its ring; see `CandidateSource.observe`."""
        self._popularity.observe(clicks)
        if not len(clicks):
            return
        self._add(np.union1d(clicks.item, clicks.contexts.items))
        own, others = (_codes(of, self._ids, self._codes) for of in (clicks.item, clicks.contexts.items))
        _observe(own, clicks.contexts.offsets, others, self._rings, self._entries, self.directed)
        np.maximum.at(self._last, own, clicks.time)
        np.maximum.at(self._last, others, np.repeat(clicks.time, np.diff(clicks.contexts.offsets)))

    def refresh(self, now: int, items: NDArray[np.int64]) -> None:
        """Fix popularity and the live items; see `CandidateSource.refresh`. Rings hold what was observed."""
        self._drop(now - self.keep)
        self._popularity.refresh(now, items)
        self.current = self._snapshot(items, self._popularity.counts)

    def scores(self, contexts: Contexts) -> NDArray[np.float32]:
        """Score the live items; see `CandidateSource.scores`."""
        return self.current.scores(contexts)

    def _snapshot(self, items: NDArray[np.int64], counts: NDArray[np.int64]) -> CoVisitationSnapshot:
        share = (counts / max(1, counts.sum())).astype(np.float32)
        live_of = np.full(len(self._rings), NOT_LIVE, np.int64)  # also of items whose first click comes later
        live_of[self._codes] = places(self._ids, items)
        held = self._ids, self._codes, self._rings, self._entries
        return CoVisitationSnapshot(items, share, *held, live_of, self.shrinkage, self.decay)

    def _add(self, items: NDArray[np.int64]) -> None:
        """Give new items a ring."""
        new = items[places(items, self._ids) == NOT_LIVE]
        used = len(self._ids)
        if used + len(new) > len(self._rings):
            more = max(len(self._rings), used + len(new) - len(self._rings), 256)
            self._rings = np.concatenate([self._rings, np.zeros((more, self._rings.shape[1]), np.int32)])
            self._entries = np.concatenate([self._entries, np.zeros(more, np.int64)])
            self._last = np.concatenate([self._last, np.full(more, np.iinfo(np.int64).min)])
        ids = np.concatenate([self._ids, new])
        codes = np.concatenate([self._codes, np.arange(used, used + len(new), dtype=np.int32)])
        order = np.argsort(ids)
        self._ids, self._codes = ids[order], codes[order]

    def _drop(self, before: int) -> None:
        """Drop rings of items without a click since `before`, once they are half of all."""
        kept = self._last[self._codes] >= before
        if 2 * kept.sum() > len(kept):
            return
        rows = self._codes[kept]
        new = np.full(len(self._rings) + 1, UNKNOWN, np.int32)  # the last is where entries that are `UNKNOWN` point
        new[rows] = np.arange(len(rows))
        rings = new[self._rings[rows]]
        self._rings, self._entries, self._last = rings, self._entries[rows], self._last[rows]
        self._ids, self._codes = self._ids[kept], np.arange(len(rows), dtype=np.int32)


def _codes(items: NDArray[np.int64], ids: NDArray[np.int64], codes: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the codes of items, `UNKNOWN` without a ring."""
    at = places(items, ids)
    return np.where(at == NOT_LIVE, UNKNOWN, codes[at] if len(codes) else UNKNOWN).astype(np.int32)


@jit(nogil=True)
def _observe(own, offsets, others, rings, entries, directed):  # type: ignore[no-untyped-def]
    size = rings.shape[1]
    for i in range(len(own)):
        a = own[i]
        for at in range(offsets[i], offsets[i + 1]):
            b = others[at]
            if a != b:
                rings[b, entries[b] % size] = a
                entries[b] += 1
                if directed:
                    continue
                rings[a, entries[a] % size] = b
                entries[a] += 1


@jit(nogil=True)
def _score(offsets, codes, seen, rings, entries, live_of, share, shrinkage, decay, out):  # type: ignore[no-untyped-def]
    # offsets, codes: contexts of B requests; seen: places of the same items among the L live ones; out: [B, L].
    size = rings.shape[1]
    for i in range(len(offsets) - 1):
        scores = out[i]
        begin, end = offsets[i], offsets[i + 1]
        # Weights of popularity and of rings; popularity is added for all items at once.
        popular, weight = 0.0, 1.0
        scores[:] = 0.0
        for at in range(begin, end):
            code = codes[at]
            count = min(entries[code], size) if code >= 0 else 0
            for n in range(count):
                other = rings[code, n]
                if 0 <= other < len(live_of) and live_of[other] >= 0:  # others were observed after the refresh
                    scores[live_of[other]] += weight / (count + shrinkage)
            popular += weight * shrinkage / (count + shrinkage)
            weight *= decay
        if begin == end:
            popular = 1.0
        for j in range(len(scores)):
            scores[j] += popular * share[j]
        for at in range(begin, end):
            if seen[at] >= 0:
                scores[seen[at]] = SEEN
