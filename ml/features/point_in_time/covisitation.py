"""Co-visitation in sessions: how often an item occurs in the same sessions as the last items of a row's session.

Each event of item b counts a pair (a, b) for each other item a among the last events of its session. Pairs are events
themselves: they have the time of the event and are known when it is known, so they are counted as of a row's instant by the
same kernels as other events. Which pairs an event has depends only on events that were known no later than itself, so an event
that arrives late adds pairs and changes none. The pairs of a replaced event stop counting when its replacement is known.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml.compute.kernel_cache import jit
from ml.features.hashing import combine
from ml.features.point_in_time.windows import Timeline, is_known
from ml.schema import MISSING_ID


@dataclass(frozen=True)
class CoVisits:
    """The pairs of a log, and the sessions that give rows their contexts.

    Attributes:
        sessions: The events by session.
        items: int64 [E], hashed items of the events of `sessions`, in its order.
        pairs: The pairs by their key, which does not depend on the order of the two items.
        members: The pairs by each of their two items.
        span: Length of the window in microseconds.
        context: Number of the last events of a session that make its context.
    """

    sessions: Timeline
    items: NDArray[np.int64]
    pairs: Timeline
    members: Timeline
    span: int
    context: int

    @classmethod
    def of(cls, session: NDArray[np.int64], item: NDArray[np.int64], time: NDArray[np.int64],
           known: NDArray[np.int64], until: NDArray[np.int64], delay: int, span: int, context: int) -> CoVisits:  # fmt: skip
        """Finds the pairs of E events in time order.

        Args:
            session: int64 [E], hashed sessions.
            item: int64 [E], hashed items.
            time: int64 [E], event times in microseconds.
            known: int64 [E], known-at times in microseconds.
            until: int64 [E], instants from which events no longer count; [0] if no event was replaced.
            delay: Microseconds after its time at which an event is known, if it did not arrive late.
            span: Length of the window in microseconds.
            context: Number of the last events of a session that make its context.
        """
        sessions = Timeline.of(np.where(item == MISSING_ID, MISSING_ID, session), time, known, delay, until)
        items = item[sessions.place]
        a, b, at = _pairs(sessions.keys, items, sessions.time, sessions.known, sessions.until, span, context)
        order = np.argsort(sessions.time[at], kind="stable")
        a, b, at = a[order], b[order], at[order]
        when, since = sessions.time[at], sessions.known[at]
        end = sessions.until[at] if len(until) else until
        pairs = Timeline.of(pair_key(a, b), when, since, delay, end)
        twice = np.arange(2 * len(a)) // 2
        both = np.column_stack((a, b)).reshape(-1)
        members = Timeline.of(both, when[twice], since[twice], delay, end[twice] if len(until) else until)
        return cls(sessions, items, pairs, members, span, context)

    def contexts(self, session: NDArray[np.int64], at: NDArray[np.int64]) -> SessionItems:
        """Finds the contexts of R sessions.

        Args:
            session: int64 [R], hashed sessions.
            at: int64 [R], instants in microseconds.
        """
        offsets, places = self.sessions.last(session, at, self.span, self.context)
        items = self.items[places]
        new = _first_of_row(offsets, items)
        kept = np.concatenate(([0], np.cumsum(new)))[offsets]
        items, when = items[new], np.repeat(at, np.diff(kept))
        return SessionItems(at, kept, items, self.members.count(items, when, self.span))

    def strength(
        self, session: NDArray[np.int64], item: NDArray[np.int64], at: NDArray[np.int64], shrink: float
    ) -> NDArray[np.float64]:
        """Computes the mean of `n(a, b) / (n(a) + shrink)` over the items a of each row's context.

        Args:
            session: int64 [N], hashed sessions of the rows. Consecutive rows of one session and instant share a context.
            item: int64 [N], hashed items b of the rows.
            at: int64 [N], instants in microseconds.
            shrink: Number of pairs by which a share is shrunk.

        Returns:
            float64 [N]; NaN without a context or an item.
        """
        new = (np.diff(session, prepend=0) != 0) | (np.diff(at, prepend=0) != 0)
        new[:1] = True
        return self.strength_in(self.contexts(session[new], at[new]), np.cumsum(new) - 1, item, shrink)

    def strength_in(
        self, contexts: SessionItems, request: NDArray[np.int64], item: NDArray[np.int64], shrink: float
    ) -> NDArray[np.float64]:
        """Computes the strength of items in contexts that are already known.

        Args:
            contexts: R contexts.
            request: int64 [N], number of the context of each row.
            item: int64 [N], hashed items b of the rows.
            shrink: Number of pairs by which a share is shrunk.

        Returns:
            float64 [N]; NaN without a context or an item.
        """
        size = np.diff(contexts.offsets)[request]
        ends = np.cumsum(size)
        row = np.repeat(np.arange(len(request)), size)
        place = np.arange(len(row)) - np.repeat(ends - size, size) + contexts.offsets[request][row]
        a, b = contexts.items[place], item[row]
        together = self.pairs.count(np.where(a == b, MISSING_ID, pair_key(a, b)), contexts.at[request][row], self.span)
        total = np.bincount(row, weights=together / (contexts.pairs[place] + shrink), minlength=len(request))
        return np.where((size > 0) & (item != MISSING_ID), total / np.maximum(size, 1), np.nan)


@dataclass(frozen=True)
class SessionItems:
    """The distinct last items of R sessions.

    Attributes:
        at: int64 [R], instants in microseconds.
        offsets: int64 [R + 1] into the items.
        items: int64 [C], hashed items.
        pairs: int64 [C], number n(a) of the pairs of each item in the window.
    """

    at: NDArray[np.int64]
    offsets: NDArray[np.int64]
    items: NDArray[np.int64]
    pairs: NDArray[np.int64]


def pair_key(a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns the keys (int64 [N]) of N pairs of items, in either order."""
    return combine(np.minimum(a, b), np.maximum(a, b))


@jit(nogil=True)
def _pairs(session, item, time, known, until, span, context):  # type: ignore[no-untyped-def]
    # Events are grouped by session. Called twice below: first to count the pairs, then to write them.
    none = np.empty(0, np.int64)
    total = _write_pairs(session, item, time, known, until, span, context, none, none, none)
    a, b, at = np.empty(total, np.int64), np.empty(total, np.int64), np.empty(total, np.int64)
    _write_pairs(session, item, time, known, until, span, context, a, b, at)
    return a, b, at


@jit(nogil=True)
def _write_pairs(session, item, time, known, until, span, context, a, b, at):  # type: ignore[no-untyped-def]
    n = start = 0
    seen = np.empty(context, np.int64)
    for p in range(len(session)):
        if session[p] != session[start]:
            start = p
        distinct = taken = 0
        q = p - 1
        while q >= start and taken < context and time[q] >= time[p] - span:
            if time[q] < time[p] and is_known(known, until, q, known[p]):
                taken += 1
                new = item[q] != item[p]
                for k in range(distinct):
                    new = new and seen[k] != item[q]
                if new:
                    seen[distinct] = item[q]
                    distinct += 1
                    if len(a):
                        a[n], b[n], at[n] = item[q], item[p], p
                    n += 1
            q -= 1
    return n


@jit(nogil=True)
def _first_of_row(offsets, items):  # type: ignore[no-untyped-def]
    # Whether each item is the first of its kind in its row.
    new = np.ones(len(items), np.bool_)
    for i in range(len(offsets) - 1):
        for n in range(offsets[i], offsets[i + 1]):
            for earlier in range(offsets[i], n):
                if items[earlier] == items[n]:
                    new[n] = False
    return new
