"""Candidates: ids that have been counted but have no row yet.

Candidates are stored in an open-addressing hash map. A slot consists of three int64 values: the id,
`table << 40 | due << 39 | count`, and the time when the id was last seen, in microseconds. A sliding filter stores two counts:
`previous half window << 19 | current half window`. Repeated occurrences within a batch are counted as well.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ml.compute.kernel_cache import jit
from ml.days import MICROSECONDS_PER_SECOND
from ml.embeddings.collisionless.hash_map import EMPTY, ROW_BITS, home_of, slots_for
from ml.embeddings.rules import TableRules
from ml.hashing import GOLDEN, mix64

DIRECT, EXACT, SLIDING, PROBABILISTIC = range(4)
DUE = 1 << 39
COUNTED = DUE - 1
_FILTERS = {"exact": EXACT, "sliding": SLIDING, "probabilistic": PROBABILISTIC}
_HALF_BITS = 19
_HALF = (1 << _HALF_BITS) - 1


class Candidates:
    """The candidates of T tables.

    Args:
        rules: Rules of the tables.
        seeds: Seeds of probabilistic admission, uint64 [T].

    Example:
        >>> candidates = Candidates([TableRules("t", min_count=2)], np.zeros(1, np.uint64))
        >>> table, clock = np.array([0]), np.array([0])
        >>> for _ in range(2):  # id 7 is due at its second occurrence
        ...     candidates.count(table, np.array([7]), missing=np.array([0]), now=0, clocks=clock).tolist()
        [0]
        [1]
    """

    def __init__(self, rules: Sequence[TableRules], seeds: NDArray[np.uint64]) -> None:
        self.slots = _empty(0)
        self.taken = np.zeros(1, np.int64)  # slots that are not empty
        self.filters = np.array([_filter_of(rule) for rule in rules], np.int64)
        self._seeds = seeds
        self._thresholds = np.array([rule.min_count for rule in rules], np.int64)
        self._halves = np.array([max(1, round((r.window_seconds or 0) * MICROSECONDS_PER_SECOND / 2)) for r in rules], np.int64)

    @property
    def nbytes(self) -> int:
        return self.slots.nbytes

    def by_table(self) -> NDArray[np.int64]:
        """Return the number of candidates of each table, int64 [T]."""
        return np.bincount(self._held()[:, 1] >> ROW_BITS, minlength=len(self.filters))

    def count(
        self, tables: NDArray[np.int64], ids: NDArray[np.int64], missing: NDArray[np.int64], now: int, clocks: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Count occurrences without a row, and mark ids that are due for a row.

        Args:
            tables: Table of each of the M occurrences without a row, int64 [M].
            ids: Ids of all N occurrences of the batch, int64 [N].
            missing: Positions in `ids` of the M occurrences, int64 [M].
            now: Event time in microseconds since 1970 UTC.
            clocks: A number per table that is different in each batch, int64 [T].

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
        """Reserve memory for `more` candidates."""
        taken = int(self.taken[0])
        if (self.filters != DIRECT).any() and slots_for(taken + more) > len(self.slots):
            self._rebuild(2 * taken + more, 0, np.zeros_like(self.filters))

    def expire(self, now: int, ttl: NDArray[np.int64]) -> None:
        """Delete candidates that were last seen more than `ttl` microseconds before `now`.

        Args:
            now: Event time in microseconds since 1970 UTC.
            ttl: Time to live of each table in microseconds, int64 [T]; 0 for no limit.
        """
        self._rebuild(int(self.taken[0]), now, ttl)

    def to_rows(self) -> NDArray[np.int64]:
        """Return all candidates, int64 [W, 3], in the layout of slots, sorted by table and id."""
        return sort_candidates(self._held())

    def restore(self, rows: NDArray[np.int64]) -> None:
        """Replace all candidates with those that `to_rows` returned."""
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
        """Return the number of earlier occurrences of the same id in the batch, int64 [M]; 0 unless the filter needs it."""
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
    """Sort candidates, int64 [W, 3], by table and id."""
    return rows[np.lexsort((rows[:, 0], rows[:, 1] >> ROW_BITS))]


def _empty(expected: int) -> NDArray[np.int64]:
    return np.full((slots_for(expected), 3), EMPTY, np.int64)


def _filter_of(rule: TableRules) -> int:
    """Return the filter of a table.

    A table that evicts counts ids even if `min_count` is 1, because it evicts as many rows as there are ids that are due.
    """
    evicts = rule.max_rows is not None and rule.evict != "never"
    return DIRECT if rule.min_count == 1 and not evicts else _FILTERS[rule.filter]


@jit(inline="always")
def candidate_slot(candidates, table, key):  # type: ignore[no-untyped-def]
    """Return the slot of a candidate, or the empty slot that it would be stored in."""
    mask = len(candidates) - 1
    at = home_of(table, key, mask)
    while candidates[at, 1] != EMPTY and not (candidates[at, 0] == key and candidates[at, 1] >> ROW_BITS == table):
        at = (at + 1) & mask
    return at


@jit(inline="always")
def occurrences(count, filter_):  # type: ignore[no-untyped-def]
    """Return the number of occurrences that a stored count represents."""
    if filter_ == SLIDING:
        return (count >> _HALF_BITS & _HALF) + (count & _HALF)
    return count & COUNTED


@jit(inline="always")
def _increment(count, filter_, known, seen, now, half):  # type: ignore[no-untyped-def]
    """Return the stored count after another occurrence at `now`. `half` is half the window in microseconds."""
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
    """Implement `Candidates.count`. There must be room for all candidates.

    `nth` is the result of `_repetitions`. The random number of an occurrence depends on seed, id, clock and `nth`.
    """
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
    """Copy candidates that have neither expired nor been admitted to `kept`, which must be empty and large enough.

    Returns the number of copied candidates.
    """
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
