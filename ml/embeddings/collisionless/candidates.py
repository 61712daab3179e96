"""Candidates: ids that have been counted and have no row yet.

A candidate is a slot of three int64, in a hash map laid out as that of rows: the id, `table << 40 | due << 39 | count`, and
when it was last seen, in microseconds. A sliding count consists of two: `previous half window << 19 | this half window`. All
occurrences count, also repeated ones within a batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ml.compute.kernel_cache import jit
from ml.embeddings.collisionless.hash_map import EMPTY, ROW_BITS, home_of, slots_for
from ml.embeddings.rules import TableRules
from ml.hashing import GOLDEN, mix64

MICROSECONDS = 1_000_000
DIRECT, EXACT, SLIDING, PROBABILISTIC = range(4)
DUE = 1 << 39
COUNTED = DUE - 1
_FILTERS = {"exact": EXACT, "sliding": SLIDING, "probabilistic": PROBABILISTIC}
_HALF_BITS = 19
_HALF = (1 << _HALF_BITS) - 1


class Candidates:
    """The candidates of T tables.

    Args:
        rules: The tables' rules, of which admission follows.
        seeds: Seeds of probabilistic admission, uint64 [T].
    """

    def __init__(self, rules: Sequence[TableRules], seeds: NDArray[np.uint64]) -> None:
        self.slots = _empty(0)
        self.taken = np.zeros(1, np.int64)  # slots that are not empty
        self.filters = np.array([_filter_of(rule) for rule in rules], np.int64)
        self._seeds = seeds
        self._thresholds = np.array([rule.min_count for rule in rules], np.int64)
        self._halves = np.array([max(1, round((r.window_seconds or 0) * MICROSECONDS / 2)) for r in rules], np.int64)

    @property
    def nbytes(self) -> int:
        return self.slots.nbytes

    def by_table(self) -> NDArray[np.int64]:
        """Number of candidates of each table, int64 [T]."""
        return np.bincount(self._held()[:, 1] >> ROW_BITS, minlength=len(self.filters))

    def count(
        self, tables: NDArray[np.int64], ids: NDArray[np.int64], missing: NDArray[np.int64], now: int, clocks: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Counts occurrences without a row, and marks the ids that have been seen often enough.

        Args:
            tables: The table of each of these occurrences, int64 [M].
            ids: Ids of all occurrences of the batch, int64 [N].
            missing: Positions in `ids` of the M occurrences.
            now: Event time, microseconds.
            clocks: A number per table that differs for every batch, int64 [T].

        Returns:
            Number of ids that became due, int64 [T].
        """
        due = np.zeros_like(self.filters)
        count_missing(
            self.slots, tables, ids, missing, self._repetitions(ids, missing, tables), now, self.taken, self.filters,
            self._thresholds, self._halves, self._seeds, clocks, due,
        )  # fmt: skip
        return due

    def reserve(self, more: int) -> None:
        """Makes room for `more` candidates."""
        taken = int(self.taken[0])
        if (self.filters != DIRECT).any() and slots_for(taken + more) > len(self.slots):
            self._rebuild(2 * taken + more, 0, np.zeros_like(self.filters))

    def expire(self, now: int, ttl: NDArray[np.int64]) -> None:
        """Deletes candidates that were last seen more than `ttl` microseconds ago, int64 [T]; 0 is no limit."""
        self._rebuild(int(self.taken[0]), now, ttl)

    def to_rows(self) -> NDArray[np.int64]:
        """Returns all candidates, int64 [W, 3], laid out as slots are, in the order of table and id."""
        return sort_candidates(self._held())

    def restore(self, rows: NDArray[np.int64]) -> None:
        """Replaces all candidates by what `to_rows` returned."""
        self.slots = np.ascontiguousarray(rows)
        self._rebuild(len(rows), 0, np.zeros_like(self.filters))

    def _held(self) -> NDArray[np.int64]:
        values = self.slots[:, 1]
        return self.slots[(values != EMPTY) & (values & COUNTED > 0)]

    def _rebuild(self, expected: int, now: int, ttl: NDArray[np.int64]) -> None:
        kept = _empty(expected)
        self.taken[0] = keep_candidates(self.slots, kept, now, ttl)
        self.slots = kept

    def _repetitions(self, ids: NDArray[np.int64], missing: NDArray[np.int64], tables: NDArray[np.int64]) -> NDArray[np.int64]:
        """How often the id of each occurrence came before it in the batch, int64 [M]; 0 for tables that do not need it."""
        nth = np.zeros(len(missing), np.int64)
        asked = np.flatnonzero(self.filters[tables] == PROBABILISTIC)
        if len(asked):
            order = asked[np.lexsort((missing[asked], ids[missing[asked]], tables[asked]))]
            mine, of = ids[missing[order]], tables[order]
            first = np.concatenate([[True], (mine[1:] != mine[:-1]) | (of[1:] != of[:-1])])
            at = np.arange(len(order))
            nth[order] = at - np.maximum.accumulate(np.where(first, at, 0))
        return nth


def sort_candidates(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sorts candidates, int64 [W, 3], by table and id."""
    return rows[np.lexsort((rows[:, 0], rows[:, 1] >> ROW_BITS))]


def _empty(expected: int) -> NDArray[np.int64]:
    return np.full((slots_for(expected), 3), EMPTY, np.int64)


def _filter_of(rule: TableRules) -> int:
    """The filter of a table. A table that evicts counts ids even if the first occurrence admits, to know how many are due."""
    evicts = rule.max_rows is not None and rule.evict != "never"
    return DIRECT if rule.min_count == 1 and not evicts else _FILTERS[rule.filter]


@jit(inline="always")
def candidate_slot(candidates, table, key):  # type: ignore[no-untyped-def]
    """Slot of a candidate, or the empty one where it belongs."""
    mask = len(candidates) - 1
    at = home_of(table, key, mask)
    while candidates[at, 1] != EMPTY and not (candidates[at, 0] == key and candidates[at, 1] >> ROW_BITS == table):
        at = (at + 1) & mask
    return at


@jit(inline="always")
def occurrences(count, filter_):  # type: ignore[no-untyped-def]
    """Occurrences that a candidate's count stands for."""
    if filter_ == SLIDING:
        return (count >> _HALF_BITS & _HALF) + (count & _HALF)
    return count & COUNTED


@jit(inline="always")
def _increment(count, filter_, known, seen, now, half):  # type: ignore[no-untyped-def]
    """The count after another occurrence at `now`. half: half the window, microseconds."""
    if filter_ != SLIDING:
        return (count & COUNTED) + 1
    previous, current = count >> _HALF_BITS & _HALF, count & _HALF
    if known:
        halves = now // half - seen // half
        if halves == 1:
            previous, current = current, 0
        elif halves > 1:
            previous, current = 0, 0
    return previous << _HALF_BITS | min(current + 1, _HALF)


@jit(nogil=True)
def count_missing(candidates, tables, ids, missing, nth, now, taken, filters, thresholds, halves, seeds, clocks, due):  # type: ignore[no-untyped-def]
    """See `Candidates.count`; there must be room. nth: `_repetitions`. Chance is a function of id, clock and nth."""
    for at in range(len(missing)):
        table, key = tables[at], ids[missing[at]]
        filter_ = filters[table]
        if filter_ == DIRECT:
            continue
        if filter_ == PROBABILISTIC:
            here_and_now = np.uint64(clocks[table]) * np.uint64(GOLDEN) + np.uint64(nth[at])
            chance = mix64(mix64(seeds[table] ^ np.uint64(key)) + here_and_now)
            if chance > np.uint64(0xFFFFFFFFFFFFFFFF) // np.uint64(thresholds[table]):
                continue
        slot = candidate_slot(candidates, table, key)
        if candidates[slot, 1] == EMPTY:
            candidates[slot, 0], candidates[slot, 1], candidates[slot, 2] = key, table << ROW_BITS, now
            taken[0] += 1
        marked = candidates[slot, 1] & DUE
        before = candidates[slot, 1] & COUNTED
        if before == 0:
            candidates[slot, 2] = now
        count = _increment(before, filter_, before > 0, candidates[slot, 2], now, halves[table])
        if not marked and (filter_ == PROBABILISTIC or occurrences(count, filter_) >= thresholds[table]):
            marked = DUE
            due[table] += 1
        candidates[slot, 1] = table << ROW_BITS | marked | count
        candidates[slot, 2] = max(now, candidates[slot, 2])


@jit
def keep_candidates(candidates, kept, now, ttl):  # type: ignore[no-untyped-def]
    """Copy candidates into `kept`, empty and large enough, except those that have expired or were admitted. Returns how
    many."""
    count = 0
    for at in range(len(candidates)):
        value = candidates[at, 1]
        if value == EMPTY:
            continue
        table = value >> ROW_BITS
        if value & COUNTED == 0 or (ttl[table] > 0 and candidates[at, 2] < now - ttl[table]):
            continue
        slot = candidate_slot(kept, table, candidates[at, 0])
        kept[slot, 0], kept[slot, 1], kept[slot, 2] = candidates[at, 0], value, candidates[at, 2]
        count += 1
    return count
