"""Candidates for requests from several sources, and the signals by which a ranker orders them.

| source          | candidates                                                                          |
|-----------------|-------------------------------------------------------------------------------------|
| `popularity`    | the most clicked items of the last 10 and of the last 60 minutes                    |
| `context`       | the items most clicked in contexts like the request's, such as on the same device   |
| `co_visitation` | items of the same sessions as the items of the request's session                    |
| `history`       | items of the same sessions as any of the user's last items, and these items         |

`SIGNALS` names the columns of a candidate's signals; a column for each column of the context follows. Shares are smoothed, and
signals are logarithms of shares, lifts over popularity, and counts. NaN marks what is unknown, such as the co-visitation of an
item that the user has taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml.days import MICROSECONDS_PER_HOUR, MICROSECONDS_PER_MINUTE
from ml.retrieval.best import mark_best
from ml.retrieval.click_counts import ClickCounts, ClickSnapshot
from ml.retrieval.co_visitation import CoVisitation, CoVisitationSnapshot
from ml.retrieval.contexts import NOT_LIVE
from ml.retrieval.interactions import Interactions, Requests
from ml.retrieval.source import Clicks

SOURCES = {"popularity": 100, "context": 150, "co_visitation": 200, "history": 100}
"""Most candidates of each source, for each of its lists."""
SIGNALS = (
    *("share_10m", "share_1h", "share_6h", "trend", "together", "together_lift", "history_lift", "follow_lift"),
    *("context_lift", "blend", "age", "idle", "popularity_rank", "together_rank", "blend_rank", "taken", "session", "past"),
    "hour",
)
_FLOOR = 1e-5
_LIFT = np.float32(0.5)  # weight of the lift of the context in the order of the sources `context` and `blend`


@dataclass(frozen=True)
class Candidates:
    """Candidates of B requests.

    Attributes:
        offsets: int64 [B + 1]; request b has the rows `[offsets[b], offsets[b + 1])`.
        places: int64 [R], places among the live items, ascending within a request.
        signals: float32 [R, S].
        found: bool [R] by source, which candidates the source found.
    """

    offsets: NDArray[np.int64]
    places: NDArray[np.int64]
    signals: NDArray[np.float32]
    found: dict[str, NDArray[np.bool_]]


class CandidateSignals:
    """Learns from events what finds candidates and computes their signals.

    A caller alternates between `observe` and `refresh`, as for `ml.retrieval.source.CandidateSource`. Requests change nothing.

    Args:
        columns: The columns of the context.

    Attributes:
        names: Names of the signals, in the order of their columns.
        current: Statistics and items of the last `refresh`. It stays usable after further ones.
    """

    def __init__(self, columns: Sequence[str] = ()) -> None:
        self.names = (*SIGNALS, *(f"lift_{name}" for name in columns))
        self._counts = ClickCounts(len(columns))
        self._together, self._follows = CoVisitation(shrinkage=100.0, decay=0.8), CoVisitation(shrinkage=50.0, directed=True)
        self.refresh(0, np.zeros(0, np.int64))

    def observe(self, events: Interactions) -> None:
        """Learn from events, none of which is earlier than one that was passed before."""
        if not len(events):
            return
        clicks = events.clicks
        self._counts.observe(clicks.time, clicks.item, events.requests.codes)
        self._together.observe(clicks)
        self._follows.observe(Clicks(clicks.time, clicks.item, clicks.contexts.first(1)))

    def refresh(self, now: int, items: NDArray[np.int64]) -> None:
        """Fix statistics and items as of a point in time. Events at `now` or later must not have been observed.

        Args:
            now: Microseconds since 1970 UTC.
            items: int64 [L], ids of the live items, ascending.
        """
        self._together.refresh(now, items)
        self._follows.refresh(now, items)
        counts = self._counts.refresh(now, items)
        popular = [mark_best(n[None].astype(np.float32), SOURCES["popularity"])[0] & (n > 0) for n in counts.counts[:2]]
        self.current = SignalSnapshot(
            now, items, counts, popular[0] | popular[1], self._together.current, self._follows.current
        )

    def candidates(self, requests: Requests, allowed: NDArray[np.bool_] | None = None, exclude_seen: bool = True) -> Candidates:
        """Find the candidates of B requests; see `SignalSnapshot.candidates`."""
        return self.current.candidates(requests, allowed, exclude_seen)


@dataclass(frozen=True)
class SignalSnapshot:
    """Finds candidates among L live items and computes their signals, as of a point in time.

    Attributes:
        now: Microseconds since 1970 UTC.
        items: int64 [L], ids of the live items, ascending.
        counts: Their clicks.
        popular: bool [L], the most clicked items of the last 10 and of the last 60 minutes.
        together: Co-visitation in either order.
        follows: Co-visitation with the item that directly follows.
    """

    now: int
    items: NDArray[np.int64]
    counts: ClickSnapshot
    popular: NDArray[np.bool_]
    together: CoVisitationSnapshot
    follows: CoVisitationSnapshot

    def candidates(self, requests: Requests, allowed: NDArray[np.bool_] | None = None, exclude_seen: bool = True) -> Candidates:
        """Find the candidates of B requests.

        Args:
            requests: The requests.
            allowed: bool [L], items that the requests may get; by default all.
            exclude_seen: Whether to leave out the users' last items.
        """
        scores = self._scores(requests)
        found = self._found(requests, scores)
        if not exclude_seen:
            found["history"] |= scores.seen
        chosen = np.logical_or.reduce(list(found.values()))
        if allowed is not None:
            chosen &= allowed
        if exclude_seen:
            chosen &= ~scores.seen
        b, j = np.nonzero(chosen)
        offsets = np.searchsorted(b, np.arange(len(requests) + 1))
        return Candidates(offsets, j, self._signals(requests, scores, offsets, b, j), {n: m[b, j] for n, m in found.items()})

    def _scores(self, requests: Requests) -> _Scores:
        counts = self.counts
        together = self.together.scores(requests.past.first(requests.session))
        lifts = [table[row] for table, row in zip(counts.lifts, counts.rows(requests.codes), strict=True)]
        lift = np.sum(lifts, axis=0, dtype=np.float32) if lifts else np.zeros_like(together)
        popularity = np.float32(_FLOOR) + counts.share
        context = counts.log_shares[0] + _LIFT * lift
        seen = np.zeros(together.shape, np.bool_)
        owner, own = np.repeat(np.arange(len(requests)), np.diff(requests.past.offsets)), requests.past.places(self.items)
        seen[owner[own != NOT_LIVE], own[own != NOT_LIVE]] = True
        return _Scores(
            together=together,
            history=self.together.scores(requests.past),
            follow=self.follows.scores(requests.past.first(np.minimum(requests.session, 1))),
            lifts=lifts,
            lift=lift,
            context=context,
            blend=context + np.log((np.maximum(together, 0) + _FLOOR) / popularity),
            popularity=popularity,
            seen=seen,
        )

    def _found(self, requests: Requests, scores: _Scores) -> dict[str, NDArray[np.bool_]]:
        """Return which items each source finds, bool [B, L]."""
        with_session, with_past = ((n > 0)[:, None] for n in (requests.session, np.diff(requests.past.offsets)))
        together, follow, history = scores.together, scores.follow, scores.history
        of_session = mark_best(together, SOURCES["co_visitation"]) & (together > 0)
        return {
            "popularity": np.repeat(self.popular[None], len(requests), axis=0),
            "context": mark_best(scores.blend, SOURCES["context"]) | mark_best(scores.context, SOURCES["context"]),
            "co_visitation": with_session & (of_session | (mark_best(follow, SOURCES["history"]) & (follow > 0))),
            "history": with_past & mark_best(history, SOURCES["history"]) & (history > 0),
        }

    def _signals(
        self, requests: Requests, scores: _Scores, offsets: NDArray[np.int64], b: NDArray[np.int64], j: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Return the signals of R candidates, float32 [R, S]: of request b and place j."""
        counts, taken, share = self.counts, scores.seen[b, j], scores.popularity[j]
        together = scores.together[b, j]

        def over(of: NDArray[np.float32]) -> NDArray[np.float32]:
            return np.where(taken, np.nan, np.log((np.maximum(of[b, j], 0) + _FLOOR) / share)).astype(np.float32)

        together_rank, blend_rank = _rank_within(offsets, [together, scores.blend[b, j]])
        columns = [
            *(part[j] for part in counts.log_shares),
            counts.log_shares[0][j] - counts.log_shares[1][j],
            np.where(taken, np.nan, np.log(np.maximum(together, 0) + _FLOOR)),
            *(over(scores.together), over(scores.history), over(scores.follow)),
            *(scores.lift[b, j], scores.blend[b, j]),
            np.log1p((self.now - counts.first_seen[j]) / MICROSECONDS_PER_MINUTE),
            np.log1p((self.now - counts.last_seen[j]) / MICROSECONDS_PER_MINUTE),
            *(counts.rank[j], together_rank, blend_rank, taken),
            *(requests.session[b], np.diff(requests.past.offsets)[b]),
            np.full(len(b), self.now / MICROSECONDS_PER_HOUR % 24),
            *(part[b, j] for part in scores.lifts),
        ]
        return np.stack([np.asarray(column, np.float32) for column in columns], 1)


@dataclass(frozen=True)
class _Scores:
    """Scores of L live items for B requests, float32 [B, L] unless stated otherwise.

    Attributes:
        together: Co-visitation with the items of the running session.
        history: Co-visitation with the user's last items.
        follow: How often the item follows the session's last item directly.
        lifts: How much more often items are clicked in the request's contexts, one array for each column.
        lift: Their sum.
        context: Logarithm of the popularity, lifted.
        blend: `context`, and how much co-visitation exceeds popularity.
        popularity: float32 [L], share of the clicks of the last hour.
        seen: bool [B, L], the user's last items.
    """

    together: NDArray[np.float32]
    history: NDArray[np.float32]
    follow: NDArray[np.float32]
    lifts: list[NDArray[np.float32]]
    lift: NDArray[np.float32]
    context: NDArray[np.float32]
    blend: NDArray[np.float32]
    popularity: NDArray[np.float32]
    seen: NDArray[np.bool_]


def _rank_within(offsets: NDArray[np.int64], scores: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    """Rank the R candidates within their requests, 0 for the highest score. Equal scores keep the order of places."""
    b = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    found = []
    for of in scores:
        order, rank = np.lexsort((-of, b)), np.empty(len(of), np.float32)
        rank[order] = np.arange(len(of)) - offsets[:-1][b]
        found.append(rank)
    return found
