"""The items that can be recommended now: their columns, filters, vectors, popularity and co-visitation.

A background thread makes a new `ServedItems` every few seconds and puts it in place of the old one. Requests wait only while
the clicks that have arrived since are added to rings of co-visitation.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ml.artifacts.bundle import Bundle
from ml.catalog.spec import DatasetSpec
from ml.days import MICROSECONDS_PER_HOUR, MICROSECONDS_PER_MINUTE
from ml.features.hashing import hash_values
from ml.features.point_in_time.negatives import Events
from ml.give_way import give_way
from ml.retrieval.catalogue import Catalogue, LiveItems
from ml.retrieval.co_visitation import CoVisitation, CoVisitationSnapshot
from ml.retrieval.contexts import NOT_LIVE, Contexts, places
from ml.retrieval.index import ItemIndex
from ml.retrieval.interactions import Interactions, Requests, context_columns
from ml.retrieval.items import described, item_column, logged_columns
from ml.retrieval.popularity import Popularity
from ml.retrieval.postings import Postings
from ml.retrieval.signals import Candidates, CandidateSignals, SignalSnapshot
from ml.retrieval.source import Clicks
from ml.retrieval.vectors import user_vectors
from ml.schema import EVENT_TIME
from ml.serving.batches import table_of
from ml.serving.events import EventWindow
from ml.serving.feature_tables import ServedTables
from ml.serving.live_index import LiveIndex


@dataclass(frozen=True)
class ServedItems:
    """L items as of a point in time.

    Attributes:
        at: Microseconds since 1970 UTC.
        ids: int64 [L], ascending.
        items: L rows with the columns that describe items, in the same order.
        postings: The same columns, for filters.
        index: Vectors of the items; None without a two-tower model.
        tower: The model of these vectors, with which users have to be looked up; None without one.
        popular: int64, places of items by descending popularity; items without a click are left out.
        clicks: int64 [L], clicks of the popularity window.
        together: Co-visitation.
        signals: What finds candidates and computes their signals; None without a LambdaRank.
        counted: The events that trailing counts are computed from.
    """

    at: int
    ids: NDArray[np.int64]
    items: pa.Table
    postings: Postings
    index: ItemIndex | None
    tower: Bundle | None
    popular: NDArray[np.int64]
    clicks: NDArray[np.int64]
    together: CoVisitationSnapshot
    signals: SignalSnapshot | None
    counted: Events

    def __len__(self) -> int:
        """Number L of items."""
        return len(self.ids)

    def nearest(self, row: Mapping[str, pa.Scalar], k: int, allowed: NDArray[np.bool_] | None) -> NDArray[np.int64]:
        """Find the items whose vectors are nearest to the vector of the request's user.

        Args:
            row: The columns of the request that do not describe items, as the two-tower model reads them.
            k: Number of items.
            allowed: bool [L], the items that the request may get; None for all.

        Returns:
            Places of at most k items, nearest first; none without a two-tower model.
        """
        if self.index is None or self.tower is None:
            return np.zeros(0, np.int64)
        among = None if allowed is None else np.flatnonzero(allowed)
        at = places(self.index.search(user_vectors(self.tower, table_of(row)), k, among).ids[0], self.ids)
        return at[at != NOT_LIVE]


class LiveCatalogue:
    """Keeps the live items up to date from events.

    Args:
        spec: A dataset with an item.
        window: The events.
        sides: The joined columns of each side table, in the order of `spec.join`.
        tables: The feature tables; by default without events.
    """

    def __init__(
        self, spec: DatasetSpec, window: EventWindow, sides: Sequence[pa.Table] = (), tables: ServedTables | None = None
    ) -> None:
        self.tables = tables or ServedTables(spec)
        self.spec, self.window, self._sides = spec, window, sides
        minutes = spec.ranked.popularity_minutes if spec.ranked else (60.0,)
        self._catalogue = Catalogue(round(spec.live_hours * MICROSECONDS_PER_HOUR))
        self._popularity = Popularity(round(max(minutes) * MICROSECONDS_PER_MINUTE))
        self._together = CoVisitation(round(max(minutes) * MICROSECONDS_PER_MINUTE))
        negatives = spec.label.negatives
        self._counts = list(negatives.recent if negatives else ())
        self._separators = {one.column: one.split for one in reversed(spec.sparse) if one.column and one.split}
        asks = spec.ranked is not None and spec.ranked.lambdarank is not None
        self._signals = CandidateSignals(context_columns(spec)) if asks else None
        self._live_index = LiveIndex()
        self._observed = np.iinfo(np.int64).min
        self._lock = threading.Lock()  # rings of co-visitation change in place
        nothing, none = self._empty(), window.events_since(0)
        self.live = self._snapshot(0, np.zeros(0, np.int64), nothing, self._postings(nothing), None, None, none)

    def refresh(self, now: int, retrieval: Bundle | None) -> ServedItems:
        """Learn from new events, and make the items of a point in time.

        Args:
            now: Microseconds since 1970 UTC.
            retrieval: A two-tower model, or None.
        """
        rows = self.window.refresh(now)
        self.tables.refresh(now)
        if len(rows):
            ids = hash_values("item", rows[item_column(self.spec)].combine_chunks())
            self._catalogue.add(rows[EVENT_TIME].to_numpy(), ids, rows.select(logged_columns(self.spec)))
        # Events that arrive later than newer ones count for items and histories, but not for the sources, which need order.
        give_way()
        clicks = self.window.clicks_since(self._observed)
        clicks = clicks.rows(0, int(np.searchsorted(clicks.time, now)))
        if len(clicks):
            events = self.window.interactions_since(self._observed).rows(0, len(clicks)) if self._signals else None
            self._observe(clicks, events)
        give_way()
        found = self._catalogue.live(now)
        ids = found.ids if found else np.zeros(0, np.int64)
        counted = self.window.events_since(now - self.window.look_back)
        items = described(self.spec, found, self._sides, now, counted) if found else self._empty()
        give_way()
        postings, index = self._postings(items), self._index(ids, items, now, retrieval)
        give_way()
        self._popularity.refresh(now, ids)
        self._together.refresh(now, ids)
        give_way()
        if self._signals:
            self._signals.refresh(now, ids)
        self.live = self._snapshot(now, ids, items, postings, index, retrieval, counted)
        return self.live

    def _observe(self, clicks: Clicks, events: Interactions | None) -> None:
        """Add new clicks to the sources. Requests score by the same rings, so they wait."""
        with self._lock:
            self._popularity.observe(clicks)
            self._together.observe(clicks)
            if self._signals and events is not None:
                self._signals.observe(events)
        self._observed = int(clicks.time[-1]) + 1

    def describe(self, live: ServedItems, given: pa.Array) -> pa.Table:
        """Describe items that are not live, as of the last refresh.

        Args:
            live: The live items of the request.
            given: N items as logged.

        Returns:
            N rows with the columns of `live.items`. Joined columns and trailing counts are known without an event; other
            columns of the log are missing.
        """
        features = {
            name: given if name == self.window.item else pa.nulls(len(given), self.window.types[name])
            for name in logged_columns(self.spec)
        }
        items, counted = LiveItems(hash_values("item", given), pa.table(features)), live.counted
        own = np.flatnonzero(np.isin(counted.item, items.ids))  # otherwise, all events would be sorted
        counted = Events(counted.time[own], counted.user[own], counted.item[own], counted.values.take(pa.array(own)))
        return described(self.spec, items, self._sides, live.at, counted)

    def together(self, live: ServedItems, context: Sequence[int]) -> NDArray[np.float32]:
        """Score items by the sessions that they share with the items of a context.

        Args:
            live: The items of the request.
            context: Ids of the items of the session, newest first.

        Returns:
            float32 [L].
        """
        with self._lock:
            return live.together.scores(Contexts.of([context]))[0]

    def shares(self, context: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return, for C clicked and N other items, the fraction of the clicked item's ring that holds the other item.

        Args:
            context: int64 [C], ids of the clicked items.
            items: int64 [N], ids of the other items.

        Returns:
            float32 [C, N].
        """
        with self._lock:
            return self.live.together.shares(context, items)

    def candidates(
        self, live: ServedItems, requests: Requests, allowed: NDArray[np.bool_] | None, exclude_seen: bool
    ) -> Candidates:
        """Find candidates with their signals.

        Args:
            live: The items of the request, of a dataset with a LambdaRank.
            requests: One request.
            allowed: bool [L], the items that the request may get; None for all.
            exclude_seen: Whether to leave out the user's last items.
        """
        assert live.signals is not None
        with self._lock:
            return live.signals.candidates(requests, allowed=allowed, exclude_seen=exclude_seen)

    def allowed(
        self, live: ServedItems, filters: Mapping[str, Sequence[Any]], without: Sequence[int]
    ) -> NDArray[np.bool_] | None:
        """Return which items a request may get, bool [L]; None for all."""
        if not filters and not without:
            return None
        found = np.full(len(live), not filters)
        if filters:
            found[live.postings.places(filters)] = True
        gone = places(np.array(without, np.int64), live.ids)
        found[gone[gone != NOT_LIVE]] = False
        return found

    def _snapshot(
        self,
        now: int,
        ids: NDArray[np.int64],
        items: pa.Table,
        postings: Postings,
        index: ItemIndex | None,
        tower: Bundle | None,
        counted: Events,
    ) -> ServedItems:
        counts = self._popularity.counts if len(ids) else np.zeros(0, np.int64)
        popular = np.argsort(-counts, kind="stable")[: int((counts > 0).sum())]
        signals = self._signals.current if self._signals else None
        return ServedItems(now, ids, items, postings, index, tower, popular, counts, self._together.current, signals, counted)

    def _postings(self, items: pa.Table) -> Postings:
        return Postings(items.drop_columns(self._counts), self._separators)

    def _index(self, ids: NDArray[np.int64], items: pa.Table, now: int, retrieval: Bundle | None) -> ItemIndex | None:
        if retrieval is None or not len(ids):
            return None
        return self._live_index.refresh(ids, self.tables.of_items(items, {}, now, counted=False), retrieval)

    def _empty(self) -> pa.Table:
        spec = self.spec
        names = [
            *logged_columns(spec),
            *(n for side in spec.join if side.log_key in logged_columns(spec) for n in side.columns),
        ]
        names += list(spec.label.negatives.recent if spec.label.negatives else ())
        return pa.table({name: pa.array([]) for name in dict.fromkeys(names)})
