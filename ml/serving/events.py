"""The events of the last hours, in memory: what each user did, and what was done with each item."""

# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import threading
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ml.catalog.spec import DatasetSpec
from ml.days import MICROSECONDS_PER_HOUR, MICROSECONDS_PER_MINUTE, day_bounds
from ml.features.hashing import hash_values
from ml.features.point_in_time.negatives import Events
from ml.retrieval.contexts import session_contexts
from ml.retrieval.interactions import SIGNAL_HOURS, Interactions, interactions_of, positive
from ml.retrieval.items import item_column
from ml.retrieval.source import Clicks
from ml.schema import ARROW_TYPES, EVENT_TIME, MISSING_ID
from ml.serving.faults import WrongColumn
from ml.serving.typed_values import typed_array

_LAST = 20  # events of a user whose columns are known


@dataclass(frozen=True)
class UserEvent:
    """One positive event of a user: its time in microseconds, the item as logged, and its id."""

    time: int
    item: Any
    id: int


@dataclass(frozen=True)
class _Held:
    """N events in time order, and the order that groups them by user.

    Attributes:
        rows: The columns of the log, in one piece.
        time: int64 [N], microseconds since 1970 UTC.
        user: int64 [N], hashed users.
        session: int64 [N], hashed sessions; None if the dataset has no column of sessions.
        item: int64 [N], hashed items.
        positive: bool [N].
        by_user: int64 [N], places of the events by user, in time order for each.
    """

    rows: pa.Table
    time: NDArray[np.int64]
    user: NDArray[np.int64]
    session: NDArray[np.int64] | None
    item: NDArray[np.int64]
    positive: NDArray[np.bool_]
    by_user: NDArray[np.int64]

    def followed_by(self, new: _Held, cut: int) -> _Held:
        """Return the first `cut` of these events, and further ones, none of which is earlier."""

        def joined(ours: NDArray[Any], theirs: NDArray[Any]) -> NDArray[Any]:
            return np.concatenate([ours[:cut], theirs])

        by_user = self.by_user[self.by_user < cut]
        at = np.searchsorted(self.user[by_user], new.user[new.by_user], "right")
        return _Held(
            pa.concat_tables([self.rows.slice(0, cut), new.rows]),
            joined(self.time, new.time),
            joined(self.user, new.user),
            None if self.session is None or new.session is None else joined(self.session, new.session),
            joined(self.item, new.item),
            joined(self.positive, new.positive),
            np.insert(by_user, at, new.by_user + cut),
        )

    def since(self, time: int) -> _Held:
        """Return the events from a point in time on."""
        first = int(np.searchsorted(self.time, time))
        return _Held(
            self.rows.slice(first).combine_chunks(),
            self.time[first:],
            self.user[first:],
            None if self.session is None else self.session[first:],
            self.item[first:],
            self.positive[first:],
            self.by_user[self.by_user >= first] - first,
        )

    def connected(self, since: int) -> NDArray[np.int64]:
        """Places of the events from a point in time on, and of all events of their users and sessions, ascending."""
        first = int(np.searchsorted(self.time, since))
        if first == len(self.time):
            return np.zeros(0, np.int64)
        chosen = np.arange(len(self.time)) >= first
        for whose in (self.user, self.session):
            if whose is not None:
                ids = np.setdiff1d(whose[first:], [MISSING_ID])
                chosen |= pc.is_in(pa.array(whose), pa.array(ids)).to_numpy(zero_copy_only=False)
        return np.flatnonzero(chosen)

    def of_user(self, user: int, before: int) -> NDArray[np.int64]:
        """Places of a user's events before a point in time, in time order."""
        start, stop = (np.searchsorted(self.user, user, side, sorter=self.by_user) for side in ("left", "right"))
        places = self.by_user[start:stop]
        return places[self.time[places] < before]


class EventWindow:
    """Keeps events for as long as a feature, a candidate source or the catalogue of live items can reach back to them.

    Threads may read at any time. A new event is visible to the next request of its user at once, and to statistics after the
    next `refresh`.

    Args:
        spec: A dataset with a user and an item.
    """

    def __init__(self, spec: DatasetSpec) -> None:
        self.spec, self.item, self.user, self._zone = spec, item_column(spec), spec.user, spec.zone
        self.look_back = round((spec.label.negatives.look_back_hours if spec.label.negatives else 0.0) * MICROSECONDS_PER_HOUR)
        self._live = round(spec.live_hours * MICROSECONDS_PER_HOUR)
        # With a log of actions, rows come from the joined examples, which have the label.
        columns = spec.examples_log.source.columns
        self.types = {EVENT_TIME: pa.int64()} | {name: ARROW_TYPES[kind] for name, kind in columns.items()}
        self.columns = list(self.types)
        self._lock = threading.Lock()
        self._held = self._index(pa.schema(list(self.types.items())).empty_table())
        self._recent: defaultdict[int, list[UserEvent]] = defaultdict(list)
        self._pending: list[pa.Table] = []

    def reach(self, now: int) -> int:
        """Return the earliest time that is needed at a point in time, in microseconds, by live items and histories."""
        midnight = _midnight(now, self._zone)
        signals = [midnight - SIGNAL_HOURS * MICROSECONDS_PER_HOUR] if self.spec.ranked and self.spec.ranked.lambdarank else []
        return min(now - self._live, midnight - self.look_back, *signals)

    def history_since(self, now: int) -> int:
        """Return from when on events belong to a history, in microseconds.

        The daily features of a day see the events from the window before its first event on, and so do the histories here.
        """
        midnight, times = _midnight(now, self._zone), self._held.time
        at = int(np.searchsorted(times, midnight))
        first = int(times[at]) if at < len(times) else now
        return min(first, now) - self.look_back

    def append(self, rows: pa.Table) -> None:
        """Add N rows with columns of the log and `event_time`, in any order. Their users' next requests see them.

        Impressions have no label before the joiner has made examples of them, so they are not positive.
        """
        rows = self._typed(rows)
        with self._lock:
            self._pending.append(rows)
            self._note(rows)

    def load(self, rows: pa.Table) -> None:
        """Add rows in bulk, as at the start of the service. They are visible after the next `refresh`."""
        with self._lock:
            self._pending.append(self._typed(rows))

    def refresh(self, now: int) -> pa.Table:
        """Merge new events into the index, and drop those that nothing can reach any more.

        Args:
            now: Microseconds since 1970 UTC.

        Returns:
            The new events, in time order.
        """
        with self._lock:
            pending, self._pending = self._pending, []
        if not pending:
            return self._held.rows.slice(0, 0)
        new = pa.concat_tables(pending).combine_chunks().sort_by(EVENT_TIME)
        held = self._merged(new).since(self.reach(now)) if len(new) else self._held
        with self._lock:
            self._held, self._recent = held, defaultdict(list)
            for rows in self._pending:  # arrived meanwhile
                self._note(rows)
        return new

    def _merged(self, new: pa.Table) -> _Held:
        """Merge events, in time order, into the index. Only those that are not earlier than the first of them are sorted."""
        before = self._held
        cut = int(np.searchsorted(before.time, new[EVENT_TIME][0].as_py(), "right"))
        later = pa.concat_tables([before.rows.slice(cut), new]).combine_chunks().sort_by(EVENT_TIME)
        return before.followed_by(self._index(later), cut)

    def _note(self, rows: pa.Table) -> None:
        """Remember the positive events of rows that are not in the index yet."""
        ids, users = hash_values("item", rows[self.item].combine_chunks()), self._user_ids(rows)
        times, items = rows[EVENT_TIME].to_pylist(), rows[self.item].to_pylist()
        for at in np.flatnonzero(positive(self.spec, rows) & (ids != MISSING_ID) & (users != MISSING_ID)).tolist():
            self._recent[int(users[at])].append(UserEvent(times[at], items[at], int(ids[at])))

    def _typed(self, rows: pa.Table) -> pa.Table:
        held = set(rows.column_names)
        return pa.table({n: rows[n].cast(kind) if n in held else pa.nulls(len(rows), kind) for n, kind in self.types.items()})

    def last_of(self, user: Any, before: int, most: int) -> list[UserEvent]:
        """Return a user's last positive events before a point in time, newest first.

        Raises:
            WrongColumn: The user has another type than the column of the log.
        """
        own = self._user_id(user)
        if own == MISSING_ID:
            return []
        with self._lock:
            held, recent = self._held, list(self._recent.get(own, ()))
        places = held.of_user(own, before)
        places = places[held.positive[places] & (held.item[places] != MISSING_ID)][-most:]
        items = held.rows[self.item].take(pa.array(places)).to_pylist()
        events = [UserEvent(int(held.time[p]), item, int(held.item[p])) for p, item in zip(places, items, strict=True)]
        events += [event for event in recent if event.time < before]
        return sorted(reversed(events), key=lambda event: -event.time)[:most]  # of one time, the last first

    def known_of(self, user: Any, before: int) -> dict[str, Any]:
        """Return the last known value of each column in a user's events before a point in time."""
        own = self._user_id(user)
        if own == MISSING_ID:
            return {}
        held, known = self._held, {}
        newest = held.of_user(own, before)[: -_LAST - 1 : -1].tolist()
        for name, column in zip(held.rows.column_names, held.rows.columns, strict=True):
            values = (column[place].as_py() for place in newest)
            if (value := next((value for value in values if value is not None), None)) is not None:
                known[name] = value
        return known

    def users(self, most: int) -> list[Any]:
        """Return some users of the window, those with the newest events first."""
        if self.user is None:
            return []
        newest = self._held.rows[self.user].to_pylist()[: -20 * most : -1]
        return list(dict.fromkeys(user for user in newest if user is not None))[:most]

    def events_since(self, time: int) -> Events:
        """Return the positive events from a point in time on, as of the last refresh, for trailing counts."""
        held = self._held
        first = int(np.searchsorted(held.time, time))
        kept = first + np.flatnonzero(held.positive[first:])
        values = held.rows[self.item].combine_chunks().take(pa.array(kept))
        return Events(held.time[kept], held.user[kept], held.item[kept], values)

    def clicks_since(self, time: int) -> Clicks:
        """Return the positive events from a point in time on with their contexts, in time order, as of the last refresh."""
        ranking, held = self.spec.ranked, self._held
        most = ranking.context if ranking else 20
        idle = round((ranking.idle_minutes if ranking else 30.0) * MICROSECONDS_PER_MINUTE)
        kept = held.connected(time)
        kept = kept[held.positive[kept] & (held.item[kept] != MISSING_ID)]
        whose, times, items = (held.user if held.session is None else held.session)[kept], held.time[kept], held.item[kept]
        contexts = session_contexts(whose, times, items, most, None if self.spec.session else idle).contexts
        return Clicks(times, items, contexts).rows(int(np.searchsorted(times, time)), len(times))

    def interactions_since(self, time: int) -> Interactions:
        """Return the positive events from a point in time on with what was known of their users, as of the last refresh.

        `row` of the result is a place among the rows of their users and sessions.
        """
        held = self._held
        return interactions_of(self.spec, held.rows.take(pa.array(held.connected(time))), time)

    def _index(self, rows: pa.Table) -> _Held:
        users = self._user_ids(rows)
        ids = hash_values("item", rows[self.item].combine_chunks())
        of_session = self.spec.session.column if self.spec.session else None
        session = hash_values("session", rows[of_session].combine_chunks()) if of_session else None
        by_user = np.argsort(users, kind="stable")
        return _Held(rows, rows[EVENT_TIME].to_numpy(), users, session, ids, positive(self.spec, rows), by_user)

    def user_array(self, user: Any) -> pa.Array:
        """Return a user as an array [1] of the column's type. Raises `WrongColumn`."""
        try:
            return typed_array([user], self.types[self.user] if self.user else pa.null())
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            raise WrongColumn(f"user: expected {self.types.get(self.user or '')}, found {user!r:.80}") from error

    def _user_id(self, user: Any) -> int:
        if self.user is None or user is None:
            return MISSING_ID
        return int(hash_values("user", self.user_array(user))[0])

    def _user_ids(self, rows: pa.Table) -> NDArray[np.int64]:
        if self.user is None:
            return np.full(len(rows), MISSING_ID)
        return hash_values("user", rows[self.user].combine_chunks())


def _midnight(now: int, zone: ZoneInfo) -> int:
    """The beginning of the day of a point in time."""
    day = datetime.fromtimestamp(now / 1e6, zone).date().isoformat()
    return day_bounds(day, zone)[0]
