"""Which ids get a row: those seen often enough. What is not yet admitted takes no row, only a count.

A candidate is a slot of three int64, laid out as the map is: the id, `table << 40 | due << 39 | count`, and when it was last
seen, in microseconds. Duplicates within a batch count, and all occurrences of the batch in which an id is admitted read its
row. A sliding count is two: `earlier half window << 19 | this half window`.
"""

from __future__ import annotations

import numpy as np

from ml.compute.kernel_cache import jit
from ml.embeddings.collisionless.hash_map import EMPTY, ROW_BITS, find_one, home_of, insert_one
from ml.embeddings.collisionless.initial import draw
from ml.embeddings.collisionless.row_layout import COUNT, DEFAULT, ID, MOST, SEEN, STEP, TABLE
from ml.embeddings.collisionless.update import begin_state
from ml.hashing import GOLDEN, mix64

DIRECT, EXACT, SLIDING, PROBABILISTIC = range(4)
DUE = 1 << 39
COUNTED = DUE - 1
_HALF_BITS = 19
_HALF = (1 << _HALF_BITS) - 1


@jit(inline="always")
def _candidate_slot(candidates, table, key):  # type: ignore[no-untyped-def]
    """Slot of a candidate, or the empty one where it belongs."""
    mask = len(candidates) - 1
    at = home_of(table, key, mask)
    while candidates[at, 1] != EMPTY and not (candidates[at, 0] == key and candidates[at, 1] >> ROW_BITS == table):
        at = (at + 1) & mask
    return at


@jit(inline="always")
def occurrences(count, filter_):  # type: ignore[no-untyped-def]
    """How many occurrences a candidate's count stands for."""
    if filter_ == SLIDING:
        return (count >> _HALF_BITS & _HALF) + (count & _HALF)
    return count & COUNTED


@jit(inline="always")
def _once_more(count, filter_, known, seen, now, half):  # type: ignore[no-untyped-def]
    """The count after another occurrence at `now`. half: of the window, microseconds."""
    if filter_ != SLIDING:
        return (count & COUNTED) + 1
    earlier, current = count >> _HALF_BITS & _HALF, count & _HALF
    if known:
        halves = now // half - seen // half
        if halves == 1:
            earlier, current = current, 0
        elif halves > 1:
            earlier, current = 0, 0
    return earlier << _HALF_BITS | min(current + 1, _HALF)


@jit(nogil=True)
def count_missing(candidates, tables, ids, missing, nth, now, state, filters, thresholds, halves, seeds, clocks, due):  # type: ignore[no-untyped-def]
    """Count the occurrences `missing`, int64 [M] positions in ids, of `tables`, int64 [M], and mark the ids that are due.

    nth: int64 [M], the so-many-th of its id in the batch each is, and clocks: int64 by table, a number that no batch has twice;
    chance is a function of these and of the id.
    due: int64 by table, how many those are, added to. state[2], how many slots are taken, is updated. There must be room for M.
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
        slot = _candidate_slot(candidates, table, key)
        known = candidates[slot, 1] != EMPTY
        if not known:
            candidates[slot, 0], candidates[slot, 1], candidates[slot, 2] = key, table << ROW_BITS, now
            state[2] += 1
        marked = candidates[slot, 1] & DUE
        before = candidates[slot, 1] & COUNTED
        if before == 0:
            candidates[slot, 2] = now
        count = _once_more(before, filter_, before > 0, candidates[slot, 2], now, halves[table])
        if not marked and (filter_ == PROBABILISTIC or occurrences(count, filter_) >= thresholds[table]):
            marked = DUE
            due[table] += 1
        candidates[slot, 1] = table << ROW_BITS | marked | count
        candidates[slot, 2] = max(now, candidates[slot, 2])


@jit(nogil=True)
def admit(  # type: ignore[no-untyped-def]
    slots, candidates, floats, words, longs, tables, ids, rows, missing, seconds, free, state, filters, caps, live,
    seeds, scale, dim, kind, constants, step,
):  # fmt: skip
    """Give rows to the occurrences `missing` whose ids are due and fit in; rows [N] of the others become the default row.

    state: int64 [3], the next row that was never used, how many of `free` there are, how many candidate slots are taken. caps,
    live: int64 by table. There must be room for M keys in slots and records.
    """
    for at in range(len(missing)):
        i = missing[at]
        table, key = tables[at], ids[i]
        counts_here = filters[table] == DIRECT or filters[table] == PROBABILISTIC
        row = find_one(slots, table, key)
        if row == EMPTY:
            rows[i] = DEFAULT
            counted = 0
            if filters[table] != DIRECT:
                slot = _candidate_slot(candidates, table, key)
                if candidates[slot, 1] == EMPTY or not candidates[slot, 1] & DUE:
                    continue
                count = candidates[slot, 1] & COUNTED
                candidates[slot, 1] = table << ROW_BITS | (0 if counts_here else count)
                if live[table] >= caps[table]:
                    continue
                candidates[slot, 1] = table << ROW_BITS  # should its row be let go, it waits anew
                counted = 0 if counts_here else occurrences(count, filters[table])
            elif live[table] >= caps[table]:
                continue
            if state[1]:
                state[1] -= 1
                row = free[state[1]]
            else:
                row = state[0]
                state[0] += 1
            insert_one(slots, table, key, row)
            live[table] += 1
            draw(floats, row, dim, seeds[table], key, scale)
            begin_state(floats, row, dim, kind, constants)
            longs[row, ID] = key
            words[row, SEEN] = np.int32(np.uint32(seconds))
            words[row, COUNT], words[row, STEP], words[row, TABLE] = min(counted, MOST), step, table
        rows[i] = row
        words[row, COUNT] += counts_here and words[row, COUNT] != MOST


@jit
def keep_candidates(candidates, kept, now, ttl):  # type: ignore[no-untyped-def]
    """Copy into kept (empty, with room) the ids that still wait: not those of a table with a ttl (microseconds) that were last
    seen longer ago, nor those that were admitted. How many they are."""
    count = 0
    for at in range(len(candidates)):
        value = candidates[at, 1]
        if value == EMPTY:
            continue
        table = value >> ROW_BITS
        if value & COUNTED == 0 or (ttl[table] > 0 and candidates[at, 2] < now - ttl[table]):
            continue
        slot = _candidate_slot(kept, table, candidates[at, 0])
        kept[slot, 0], kept[slot, 1], kept[slot, 2] = candidates[at, 0], value, candidates[at, 2]
        count += 1
    return count
