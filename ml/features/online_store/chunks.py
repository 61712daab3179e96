"""Chunks: the stored form of an entity's events, and the kernels that append to them and read them.

The events of an entity are a sequence in time order, which is cut into chunks. The last chunk, the tail, receives new events.
While it has more than `2 * CHUNK` events, its oldest `CHUNK` events become a sealed chunk, which does not change unless an
event arrives late. So an append writes a few kilobytes, however many events the entity has.

A chunk is a sequence of 8-byte words:

    count n | base | n values of each sum | ... | times [n] | column 0 [n] | column 1 [n] | ...

`base` is the number of events in earlier chunks. For each column that is summed there are two more words: the number of its
values in earlier chunks, an int64, and their sum, a float64. The number of events in a window, and the sum over a window, are
therefore differences of two positions, and chunks between the two are not read.
"""

from __future__ import annotations

import numpy as np

from ml.compute.kernel_cache import jit

CHUNK = 32
"""Number of events in a sealed chunk. The tail has up to twice as many."""
TAIL = np.iinfo(np.int64).max
"""Stands for the last event time of a tail in its key, so that the tail sorts after all sealed chunks."""


def header_words(num_sums: int) -> int:
    """Return the number of words before the times of a chunk."""
    return 2 + 2 * num_sums


@jit
def append(old, old_starts, times, columns, starts, num_sums, chunk):  # type: ignore[no-untyped-def]
    """Merge new events into tails and cut them.

    Args:
        old: int64 words of the tails of G entities, one after the other.
        old_starts: int64 [G], where each tail starts in `old`; -1 for an entity without events.
        times: int64 [E], times of the new events, grouped by entity, in time order within an entity.
        columns: int64 [C, E], words of their columns. The first `num_sums` are float64 that are summed unless they are NaN.
        starts: int64 [G + 1], where the events of each entity start.
        num_sums: Number of columns that are summed.
        chunk: Number of events in a sealed chunk.

    Returns:
        The words of all chunks to store, and four int64 arrays [R]: the entity of each, the time of its last event (`TAIL` for
        a tail), its base, and where it starts in the words (R + 1 entries).
    """
    num_columns = len(columns)
    header = 2 + 2 * num_sums
    groups = len(starts) - 1
    size = records = longest = 0
    for g in range(groups):
        n = starts[g + 1] - starts[g]
        if old_starts[g] >= 0:
            n += old[old_starts[g]]
        cuts = max(0, -((2 * chunk - n) // chunk))  # sealed chunks: as few as leave at most 2 * chunk events
        size += n * (1 + num_columns) + (cuts + 1) * header
        records += cuts + 1
        longest = max(longest, n)
    out = np.empty(size, np.int64)
    out_floats, old_floats, new_floats = out.view(np.float64), old.view(np.float64), columns.view(np.float64)
    of, last, bases = np.empty(records, np.int64), np.empty(records, np.int64), np.empty(records, np.int64)
    ends = np.zeros(records + 1, np.int64)
    source = np.empty(longest, np.int64)  # index of an old event, or ~index of a new one
    counts, sums = np.zeros(num_sums, np.int64), np.zeros(num_sums, np.float64)
    at = r = 0
    for g in range(groups):
        i, m = old_starts[g], np.int64(0)
        base = np.int64(0)
        counts[:] = 0
        sums[:] = 0.0
        if i >= 0:
            m, base = old[i], old[i + 1]
            for s in range(num_sums):
                counts[s], sums[s] = old[i + 2 + 2 * s], old_floats[i + 3 + 2 * s]
        old_times = i + header
        n = a = 0
        b = starts[g]
        while a < m or b < starts[g + 1]:
            if b == starts[g + 1] or (a < m and old[old_times + a] <= times[b]):
                source[n] = a
                a += 1
            else:
                source[n] = ~b
                b += 1
            n += 1
        first = 0
        while True:
            sealed = n - first > 2 * chunk
            k = chunk if sealed else n - first
            out[at], out[at + 1] = k, base
            for s in range(num_sums):
                out[at + 2 + 2 * s], out_floats[at + 3 + 2 * s] = counts[s], sums[s]
            to = at + header
            for j in range(k):
                e = source[first + j]
                out[to + j] = old[old_times + e] if e >= 0 else times[~e]
                for c in range(num_columns):
                    out[to + (1 + c) * k + j] = old[old_times + (1 + c) * m + e] if e >= 0 else columns[c, ~e]
                for s in range(num_sums):
                    value = old_floats[old_times + (1 + s) * m + e] if e >= 0 else new_floats[s, ~e]
                    if not np.isnan(value):
                        counts[s] += 1
                        sums[s] += value
            of[r], last[r], bases[r] = g, out[to + k - 1] if sealed else TAIL, base
            at = to + k * (1 + num_columns)
            r += 1
            ends[r] = at
            base += k
            first += k
            if not sealed:
                break
    return out, of, last, bases, ends


@jit(inline="always")
def _before(words, first, n, bound):  # type: ignore[no-untyped-def]
    """Returns the number of the n ascending times from `first` that are below a bound."""
    low, high = 0, n
    while low < high:
        middle = (low + high) // 2
        if words[first + middle] < bound:
            low = middle + 1
        else:
            high = middle
    return low


@jit
def totals_before(words, starts, bounds, num_sums, is_last, counts, sums, done):  # type: ignore[no-untyped-def]
    """Compute the number of events before each bound, and sums over them, of entities whose chunk covers the bound.

    Args:
        words: int64 words of chunks.
        starts: int64 [N], where the chunk of each query starts; -1 for an entity without events.
        bounds: int64 [N], instants.
        num_sums: Number of columns that are summed.
        is_last: Whether the chunks are known to cover the bounds.
        counts: int64 [N, 1 + S]; receives the number of events and the numbers of values of each sum.
        sums: float64 [N, S]; receives the sums.
        done: bool [N]; receives whether the chunk covers the bound. Otherwise an earlier chunk does.
    """
    floats = words.view(np.float64)
    header = 2 + 2 * num_sums
    for q in range(len(starts)):
        at = starts[q]
        done[q] = True
        if at < 0:
            counts[q] = 0
            sums[q] = 0.0
            continue
        n, base = words[at], words[at + 1]
        first = at + header
        p = _before(words, first, n, bounds[q])
        if p == 0 and base > 0 and not is_last:
            done[q] = False
            continue
        counts[q, 0] = base + p
        for s in range(num_sums):
            number, total = words[at + 2 + 2 * s], floats[at + 3 + 2 * s]
            column = first + (1 + s) * n
            for j in range(p):
                value = floats[column + j]
                if not np.isnan(value):
                    number += 1
                    total += value
            counts[q, 1 + s] = number
            sums[q, s] = total


@jit
def last_values(words, starts, lows, highs, num_sums, column, most, missing, values, lengths, done):  # type: ignore[no-untyped-def]
    """Find the values of a column in the last events in windows, newest first.

    Args:
        words: int64 words of chunks.
        starts: int64 [N], where the chunk of each query starts; -1 for an entity without events.
        lows: int64 [N], first instant of each window.
        highs: int64 [N], the instant after each window.
        num_sums: Number of columns that are summed.
        column: Index of the column; -1 for the event times.
        most: Maximum number of values.
        missing: Word of a missing value.
        values: int64 [N, most]; receives the words.
        lengths: int64 [N]; receives the number of values.
        done: bool [N]; receives whether no earlier chunk can have more of them.
    """
    header = 2 + 2 * num_sums
    for q in range(len(starts)):
        at = starts[q]
        lengths[q], done[q] = 0, True
        if at < 0:
            continue
        n = words[at]
        first = at + header
        k = 0
        j = _before(words, first, n, highs[q]) - 1
        while j >= 0 and k < most and words[first + j] >= lows[q]:
            word = words[first + (1 + column) * n + j]
            if word != missing or column < 0:
                values[q, k] = word
                k += 1
            j -= 1
        lengths[q] = k
        done[q] = j >= 0 or k == most or words[at + 1] == 0


def merge(chunks: list[np.ndarray], num_sums: int) -> np.ndarray:
    """Join consecutive chunks of an entity, in order, to one that has the events of all."""
    header = header_words(num_sums)
    events = np.concatenate([chunk[header:].reshape(-1, chunk[0]) for chunk in chunks], axis=1)  # [1 + C, n]
    return np.concatenate(([events.shape[1]], chunks[0][1:header], events.reshape(-1)))
