"""Positive events of the log with what was known when each happened: the user's last items, the session, the context.

Training, reports and the service read raw rows by the same function, so that their candidates and signals are equal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from upath import UPath

from ml.catalog.spec import DatasetSpec, Ranking
from ml.days import MICROSECONDS_PER_MINUTE, day_bounds
from ml.features.hashing import hash_values
from ml.lake import Lake
from ml.logs.labels import POSITIVE, label_codes
from ml.logs.read import raw_parts
from ml.retrieval.contexts import Contexts, session_contexts
from ml.retrieval.items import days_since, item_column, item_columns
from ml.retrieval.source import Clicks
from ml.schema import EVENT_TIME, MISSING_ID

PAST = 20
"""Number of a user's last items that signals use."""
SIGNAL_HOURS = 24
"""Hours before the beginning of a day from which on signals of the day use events."""


@dataclass(frozen=True)
class Requests:
    """What B requests know of their users.

    Attributes:
        past: The users' last items, newest first, at most `PAST`.
        session: int64 [B], how many of these belong to the running session.
        codes: int64 [B, C], hashed values of the columns of `context_columns`.
    """

    past: Contexts
    session: NDArray[np.int64]
    codes: NDArray[np.int64]

    def __len__(self) -> int:
        """Number B of requests."""
        return len(self.session)

    def take(self, rows: NDArray[np.int64]) -> Requests:
        """Return some requests, in the order of `rows`."""
        return Requests(self.past.take(rows), self.session[rows], self.codes[rows])


@dataclass(frozen=True)
class Interactions:
    """N positive events in time order.

    Attributes:
        clicks: Their times, items, and what their sessions took before.
        requests: What was known of the users just before each event.
        user: int64 [N], hashed users.
        row: int64 [N], places among the rows that were read.
    """

    clicks: Clicks
    requests: Requests
    user: NDArray[np.int64]
    row: NDArray[np.int64]

    def __len__(self) -> int:
        """Number N of events."""
        return len(self.clicks)

    def rows(self, start: int, stop: int) -> Interactions:
        """Return the events `[start, stop)`."""
        requests = self.requests.take(np.arange(start, stop))
        return Interactions(self.clicks.rows(start, stop), requests, self.user[start:stop], self.row[start:stop])


def running_session(times: list[int], now: int, idle: int) -> int:
    """Count the newest of a user's events, given newest first, that belong to a session which still runs."""
    gaps = np.diff([*times[::-1], now])[::-1] <= idle
    return len(gaps) if gaps.all() else int(gaps.argmin())


def context_columns(spec: DatasetSpec) -> list[str]:
    """Return the columns of the log that describe a request: those of plain sparse features, except users, items, sessions."""
    others = {spec.user, spec.item, *item_columns(spec), *([spec.session.column] if spec.session else [])}
    types = spec.column_types
    plain = (f for f in spec.sparse if f.column and not (f.bucketise or f.cross or f.hour_of_day or f.is_multi_valued(types)))
    of_log = spec.examples_log.source.columns
    columns = dict.fromkeys(f.column for f in plain if f.column in of_log)
    return [column for column in columns if column is not None and column not in others]


def positive(spec: DatasetSpec, rows: pa.Table) -> NDArray[np.bool_]:
    """Return which of N rows of the log are positive, bool [N]."""
    if spec.label.column is None:
        return np.ones(len(rows), np.bool_)
    return label_codes(rows[spec.label.column], spec.label_rules[0]) == POSITIVE


def codes_of(columns: list[str], rows: pa.Table) -> NDArray[np.int64]:
    """Hash the context columns of N rows, int64 [N, C]."""
    found = [hash_values(name, rows[name].combine_chunks()) for name in columns]
    return np.stack(found, 1) if found else np.zeros((len(rows), 0), np.int64)


def interactions_of(spec: DatasetSpec, rows: pa.Table, since: int | None = None) -> Interactions:
    """Derive positive events from raw rows in time order.

    Args:
        spec: A dataset with a user and an item.
        rows: Rows with `event_time` and the columns of the log.
        since: First time of the events to return, in microseconds; by default all are returned. Earlier rows count as past.
    """
    ranking, item = spec.ranked or Ranking(), hash_values("item", rows[item_column(spec)].combine_chunks())
    kept = np.flatnonzero(positive(spec, rows) & (item != MISSING_ID))
    user = hash_values("user", rows[spec.user].combine_chunks())[kept] if spec.user else np.full(len(kept), MISSING_ID)
    time, item = rows[EVENT_TIME].to_numpy()[kept], item[kept]
    idle = round(ranking.idle_minutes * MICROSECONDS_PER_MINUTE)
    past = session_contexts(user, time, item, PAST).contexts
    own = session_contexts(user, time, item, PAST, idle).contexts
    sessions = own
    if spec.session:
        whose = hash_values("session", rows[spec.session.column].combine_chunks())[kept]
        sessions = session_contexts(whose, time, item, ranking.context).contexts
    first, end = 0 if since is None else int(np.searchsorted(time, since)), len(time)
    codes = codes_of(context_columns(spec), rows.take(pa.array(kept[first:])))
    requests = Requests(past.rows(first, end), np.diff(own.offsets)[first:], codes)
    return Interactions(Clicks(time, item, sessions).rows(first, end), requests, user[first:], kept[first:])


@dataclass(frozen=True)
class ReadLog:
    """Rows of the log in reach of a day.

    Attributes:
        events: The positive events.
        time: int64 [M], times of all rows; each makes its item live.
        item: int64 [M], their hashed items.
    """

    events: Interactions
    time: NDArray[np.int64]
    item: NDArray[np.int64]


def read_interactions(spec: DatasetSpec, day: str, lake: Lake, since: int) -> ReadLog:
    """Read the rows from a point in time, in microseconds, to the end of a day.

    Raises:
        MissingPartition: The day has not been ingested.
    """
    rows = read_rows(spec, day, lake, since)
    item = hash_values("item", rows[item_column(spec)].combine_chunks())
    return ReadLog(interactions_of(spec, rows), rows[EVENT_TIME].to_numpy(), item)


def read_rows(spec: DatasetSpec, day: str, lake: Lake, since: int) -> pa.Table:
    """Read the raw rows from a point in time, in microseconds, to the end of a day, in time order."""
    log = spec.examples_log
    days = days_since(spec, day, lake, since, log.stage)
    parts = [UPath(part) for other in days for part in raw_parts(lake, spec.name, other, log.stage)]
    columns = [EVENT_TIME, *log.source.columns]
    rows = pa.concat_tables([pq.read_table(part.path, columns=columns, filesystem=part.fs) for part in parts])
    first, end = np.searchsorted(rows[EVENT_TIME].to_numpy(), (since, day_bounds(day, spec.zone)[1]))
    return rows.slice(first, end - first).combine_chunks()
