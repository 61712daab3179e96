"""Admission: ids that have occurred often enough get a row if the table has room. All occurrences in the batch read it."""

from __future__ import annotations

import numpy as np

from ml.compute.kernel_cache import jit
from ml.embeddings.collisionless.candidates import COUNTED, DIRECT, DUE, PROBABILISTIC, candidate_slot, occurrences
from ml.embeddings.collisionless.hash_map import EMPTY, ROW_BITS, find_one, insert_one
from ml.embeddings.collisionless.initial import draw
from ml.embeddings.collisionless.row_layout import COUNT, DEFAULT, ID, MOST, SEEN, STEP, TABLE
from ml.embeddings.collisionless.update import init_state


@jit(nogil=True)
def admit(  # type: ignore[no-untyped-def]
    slots, candidates, floats, words, longs, tables, ids, rows, missing, seconds, free, state, filters, caps, live,
    seeds, scale, dim, kind, constants, step,
):  # fmt: skip
    """Admit the ids of `missing` occurrences that are due, while their tables have room.

    Writes the row of each of these occurrences to `rows`, int64 [N]; ids that are not admitted get the default row. `state`,
    int64 [2], holds the next row that has never been used and the number of rows in `free`. `caps` and `live` are int64 [T].
    Slots and rows must have room for all admitted ids.
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
                slot = candidate_slot(candidates, table, key)
                if candidates[slot, 1] == EMPTY or not candidates[slot, 1] & DUE:
                    continue
                count = candidates[slot, 1] & COUNTED
                candidates[slot, 1] = table << ROW_BITS | (0 if counts_here else count)
                if live[table] >= caps[table]:
                    continue
                candidates[slot, 1] = table << ROW_BITS  # if the row is deleted, counting restarts at zero
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
            init_state(floats, row, dim, kind, constants)
            longs[row, ID] = key
            words[row, SEEN] = np.int32(np.uint32(seconds))
            words[row, COUNT], words[row, STEP], words[row, TABLE] = min(counted, MOST), step, table
        rows[i] = row
        words[row, COUNT] += counts_here and words[row, COUNT] != MOST
