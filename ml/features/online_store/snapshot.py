"""Reads of the store in one transaction: positions, sums and last values of many entities at a time.

A look-up first reads the tail of each entity, which nearly always has the latest events. Windows that begin before the tail
need one seek each, however many events they have.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import lmdb
import numpy as np

from ml.features.online_store.chunks import header_words, last_values, merge, totals_before
from ml.features.online_store.environment import Environment
from ml.features.online_store.keys import PREFIX_BYTES, chunk_keys
from ml.features.online_store.plan import Series

MISSING_WORD = np.iinfo(np.int64).min
"""Word of a missing value in a column whose values are looked up."""


@dataclass(frozen=True)
class Chunks:
    """One chunk for each of N entities.

    Attributes:
        words: int64, the chunks one after the other.
        starts: int64 [N], where each starts; -1 for an entity without events.
    """

    words: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, found: list[Any]) -> Chunks:
        """Join chunks as they are stored; empty for an entity without events."""
        sizes = np.fromiter(map(len, found), np.int64, len(found)) >> 3
        return cls(np.frombuffer(b"".join(found), np.int64), np.where(sizes > 0, np.cumsum(sizes) - sizes, -1))


class Entities:
    """N entities of a series, in one transaction.

    Args:
        txn: The transaction.
        held: The environment.
        series: The series.
        ids: int64 [N], keys of entities; they may repeat. A missing key (0) has no events.
    """

    def __init__(self, txn: lmdb.Transaction, held: Environment, series: Series, ids: np.ndarray) -> None:
        self._txn, self._db, self._series, self._ids = txn, held.chunks, series, ids

    @cached_property
    def tails(self) -> Chunks:
        """The tails of the entities."""
        get, db = self._txn.get, self._db
        return Chunks.of([get(key, b"", db) for key in chunk_keys(self._series.number, self._ids)])

    @property
    def missing(self) -> np.ndarray:
        """Whether each entity has no events, bool [N]."""
        return self.tails.starts < 0

    @property
    def newest(self) -> np.ndarray:
        """Time of the last event of each entity, int64 [N]; the least int64 without one."""
        words, starts = self.tails.words, self.tails.starts
        times = np.full(len(starts), MISSING_WORD)
        known = starts >= 0
        at = starts[known]
        times[known] = words[at + header_words(len(self._series.sums)) + words[at] - 1]
        return times

    def totals(self, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute the number of events before each bound, and sums over them.

        Args:
            bounds: int64 [N], an instant for each entity.

        Returns:
            int64 [N, 1 + S], the number of events and the numbers of values of each sum, and float64 [N, S] sums. They start at
            an arbitrary origin, so only differences of two bounds have a meaning.
        """
        n, num = len(bounds), len(self._series.sums)
        counts, sums, done = np.empty((n, 1 + num), np.int64), np.empty((n, num)), np.empty(n, np.bool_)
        totals_before(self.tails.words, self.tails.starts, bounds, num, False, counts, sums, done)
        late = np.flatnonzero(~done)
        if len(late):
            keys = chunk_keys(self._series.number, self._ids[late], bounds[late])
            with self._txn.cursor(self._db) as cursor:
                found = []
                for key in keys:
                    cursor.set_range(key)
                    found.append(cursor.value())
                older = Chunks.of(found)
            late_counts, late_sums = np.empty((len(late), 1 + num), np.int64), np.empty((len(late), num))
            totals_before(older.words, older.starts, bounds[late], num, True, late_counts, late_sums, done)
            counts[late], sums[late] = late_counts, late_sums
        return counts, sums

    def last(self, lows: np.ndarray, highs: np.ndarray, column: int, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Find the values of a column in the last events in `[low, high)`, newest first.

        Args:
            lows: int64 [N].
            highs: int64 [N].
            column: Index of the column among sums and values; -1 for event times.
            most: Maximum number of values.

        Returns:
            int64 [N, most] words, and int64 [N] numbers of values.
        """
        n, num = len(lows), len(self._series.sums)
        values, lengths, done = np.empty((n, most), np.int64), np.empty(n, np.int64), np.empty(n, np.bool_)
        tails = self.tails
        last_values(tails.words, tails.starts, lows, highs, num, column, most, MISSING_WORD, values, lengths, done)
        for q in np.flatnonzero(~done):
            one = np.s_[q : q + 1]
            words = self._back(int(self._ids[q]), int(lows[q]), int(highs[q]), column, most)
            start = np.zeros(1, np.int64)
            last_values(
                words, start, lows[one], highs[one], num, column, most, MISSING_WORD, values[one], lengths[one], done[one]
            )
        return values, lengths

    def _back(self, entity: int, low: int, high: int, column: int, most: int) -> np.ndarray:
        """Return the events of an entity before an instant, back to those that a look-up of last values needs."""
        header = header_words(len(self._series.sums))
        ids = np.array([entity], np.int64)
        with self._txn.cursor(self._db) as cursor:
            cursor.set_range(chunk_keys(self._series.number, ids, high)[0])
            prefix = bytes(cursor.key())[:PREFIX_BYTES]
            chunks, found = [], 0
            while True:
                chunk = np.frombuffer(bytes(cursor.value()), np.int64)
                chunks.insert(0, chunk)
                events = chunk[header:].reshape(-1, chunk[0])  # [1 + C, n]
                known = (events[0] < high) & ((events[1 + column] != MISSING_WORD) | (column < 0))
                found += int(known.sum())
                is_first = not chunk[1] or events[0][0] < low or found >= most
                if is_first or not cursor.prev() or bytes(cursor.key())[:PREFIX_BYTES] != prefix:
                    return merge(chunks, len(self._series.sums))

    def events_after(self, entity: int, time: int) -> np.ndarray:
        """Return the times and columns of the events of an entity after an instant, int64 [1 + C, n]."""
        header = header_words(len(self._series.sums))
        key = chunk_keys(self._series.number, np.array([entity], np.int64), time + 1)[0]
        found = []
        with self._txn.cursor(self._db) as cursor:
            more = cursor.set_range(key)
            while more and bytes(cursor.key())[:PREFIX_BYTES] == key[:PREFIX_BYTES]:
                chunk = np.frombuffer(bytes(cursor.value()), np.int64)
                found.append(chunk[header:].reshape(-1, chunk[0]))
                more = cursor.next()
        events = np.concatenate(found, axis=1)
        return events[:, events[0] > time]
