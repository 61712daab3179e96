"""Which ids get a row: those seen often enough. Counting is exact, and what is not yet admitted takes no row, only a count.

A waiting id is a slot of three int64, laid out as the map is: the id, `table << 40 | count`, and when it was last seen.
Duplicates within a batch count, and all occurrences of the batch in which an id is admitted read its row.
"""

from __future__ import annotations

import numba as nb

from ml.embeddings.idmap import EMPTY, ROW_BITS, ROW_MASK, find_one, home_of, insert_one
from ml.embeddings.initial import draw
from ml.embeddings.optimizers import begin_state
from ml.embeddings.records import COUNT, DEFAULT, ID, SEEN, TABLE, VERSION


@nb.njit(cache=True, inline="always")
def _waiting(waiting, table, key):  # type: ignore[no-untyped-def]
    """Slot of a waiting id, or the empty one where it belongs."""
    mask = len(waiting) - 1
    at = home_of(table, key, mask)
    while waiting[at, 1] != EMPTY and not (waiting[at, 0] == key and waiting[at, 1] >> ROW_BITS == table):
        at = (at + 1) & mask
    return at


@nb.njit(cache=True, nogil=True)
def admit(  # type: ignore[no-untyped-def]
    slots, waiting, floats, words, longs, tables, ids, rows, missing, now, free, state, thresholds, caps, live,
    seeds, scale, dim, kind, constants, lr, version,
):  # fmt: skip
    """Give rows to the occurrences `missing`, int64 [M] positions in tables, ids and rows [N], which have none.

    state: int64 [3], the next row that was never used, how many of `free` there are, how many ids wait; updated. thresholds,
    caps, live: int64 by table, live is updated. There must be room for M keys in slots, waiting and records.
    """
    for at in range(len(missing)):
        i = missing[at]
        table = tables[i]
        if thresholds[table] > 1 and find_one(slots, table, ids[i]) == EMPTY:
            slot = _waiting(waiting, table, ids[i])
            if waiting[slot, 1] == EMPTY:
                waiting[slot, 0], waiting[slot, 1] = ids[i], table << ROW_BITS
                state[2] += 1
            waiting[slot, 1] += 1
            waiting[slot, 2] = max(now, waiting[slot, 2]) if waiting[slot, 1] & ROW_MASK > 1 else now
    for at in range(len(missing)):
        i = missing[at]
        table, key = tables[i], ids[i]
        row = find_one(slots, table, key)
        counted = 0
        if row == EMPTY:
            rows[i] = DEFAULT
            if live[table] >= caps[table]:
                continue
            if thresholds[table] > 1:
                slot = _waiting(waiting, table, key)
                counted = waiting[slot, 1] & ROW_MASK
                if counted < thresholds[table]:
                    continue
                waiting[slot, 1] = table << ROW_BITS  # should its row expire, it waits anew
            if state[1]:
                state[1] -= 1
                row = free[state[1]]
            else:
                row = state[0]
                state[0] += 1
            insert_one(slots, table, key, row)
            live[table] += 1
            draw(floats, row, dim, seeds[table], key, scale)
            begin_state(floats, row, dim, kind, constants, lr)
            longs[row, ID], longs[row, SEEN] = key, now
            words[row, COUNT], words[row, VERSION], words[row, TABLE] = counted, version, table
        rows[i] = row
        words[row, COUNT] += thresholds[table] == 1
        longs[row, SEEN] = max(longs[row, SEEN], now)


@nb.njit(cache=True, nogil=True)
def touch(words, longs, rows, missing, now):  # type: ignore[no-untyped-def]
    """Count the occurrences that have a row, and put down the positions of those that have none; how many these are."""
    without = 0
    for i in range(len(rows)):
        row = rows[i]
        if row == EMPTY:
            missing[without] = i
            without += 1
        else:
            words[row, COUNT] += 1
            longs[row, SEEN] = max(longs[row, SEEN], now)
    return without


@nb.njit(cache=True)
def keep_waiting(waiting, kept, before, ttl):  # type: ignore[no-untyped-def]
    """Copy into kept (empty, with room) the ids that still wait: not those of a table with a ttl last seen before `before`
    less it, nor those that were admitted (count 0). How many they are."""
    count = 0
    for at in range(len(waiting)):
        value = waiting[at, 1]
        if value == EMPTY:
            continue
        table = value >> ROW_BITS
        if value & ROW_MASK == 0 or (ttl[table] > 0 and waiting[at, 2] < before - ttl[table]):
            continue
        slot = _waiting(kept, table, waiting[at, 0])
        kept[slot, 0], kept[slot, 1], kept[slot, 2] = waiting[at, 0], value, waiting[at, 2]
        count += 1
    return count
