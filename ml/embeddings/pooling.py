"""The two kernels of every step: pooling rows into bags, and updating each row once by the sum of its bags' gradients.

Occurrences come feature by feature, as in a KeyedJaggedTensor: bag f * B + b of feature f and example b holds occurrences
offsets[f * B + b] to the next. Kernels are compiled for a dimension and an optimizer, whose loops then have constant bounds.
Part p of P works on examples, or on rows, that no other part touches: parts may run in threads, and every row is summed in the
order of its occurrences however many parts there are.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numba as nb
import numpy as np

from ml.embeddings.optimizers import updater
from ml.embeddings.prefetch import AHEAD, prefetch
from ml.embeddings.records import VERSION, WEIGHTS

_FAST = {"reassoc", "contract"}


@lru_cache(maxsize=32)
def pooler(dim: int) -> Callable[..., None]:
    """pool(floats, rows, offsets, weights, means, out, begin, end): examples [begin, end) into out, float32 [B, F * dim].

    rows: int64 [N]. weights: float32 [N], or empty. means: bool [F], whether a feature's bags are averaged.
    """

    @nb.njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
    def pool(floats, rows, offsets, weights, means, out, begin, end):  # type: ignore[no-untyped-def]
        examples = len(out)
        weighted = len(weights) > 0
        total = len(rows)
        for feature in range(len(means)):
            at = np.uint64(feature * dim)
            for example in range(begin, end):
                bag = np.uint64(feature * examples + example)
                first, last = offsets[bag], offsets[bag + np.uint64(1)]
                if last - first == 1 and not weighted:
                    if first + AHEAD < total:
                        soon = np.uint64(rows[np.uint64(first + AHEAD)])
                        prefetch(floats, soon, np.uint64(WEIGHTS))
                        prefetch(floats, soon, np.uint64(WEIGHTS + 15))
                    row = np.uint64(rows[np.uint64(first)])
                    for d in range(dim):
                        out[example, at + np.uint64(d)] = floats[row, np.uint64(WEIGHTS + d)]
                    continue
                for d in range(dim):
                    out[example, at + np.uint64(d)] = 0
                for i in range(first, last):
                    row = np.uint64(rows[i])
                    weight = weights[i] if weighted else np.float32(1)
                    for d in range(dim):
                        out[example, at + np.uint64(d)] += weight * floats[row, np.uint64(WEIGHTS + d)]
                if means[feature] and last - first > 1:
                    scale = np.float32(1) / np.float32(last - first)
                    for d in range(dim):
                        out[example, at + np.uint64(d)] *= scale

    return pool


def scratch(occurrences: int) -> tuple[np.ndarray, ...]:
    """What `trainer`'s kernel works in, enough for so many occurrences; each part needs its own."""
    places = 16
    while places < 2 * occurrences:
        places *= 2
    notes, distinct = np.empty((5, occurrences), np.int32), np.empty(occurrences, np.int64)
    return notes, distinct, np.empty(occurrences, np.float32), np.empty(places, np.int32)


@lru_cache(maxsize=32)
def trainer(dim: int, kind: int) -> Callable[..., None]:
    """update(floats, words, rows, offsets, weights, means, grad, groups, constants, lr, version, part, parts, *scratch).

    Updates each row r with r % parts == part that an occurrence reads, but the default row, by its summed gradient.
    grad: float32 [B, F * dim]. groups: int64 [F], table << 32 | feature, sorted: no row is of two tables, so each table's are
    gathered alone.
    """
    apply = updater(dim, kind)

    @nb.njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
    def update(  # type: ignore[no-untyped-def]
        floats,
        words,
        rows,
        offsets,
        weights,
        means,
        grad,
        groups,
        constants,
        lr,
        version,
        part,
        parts,
        notes,
        distinct,
        scales,
        places,
    ):
        examples = len(grad)
        weighted = len(weights) > 0
        one = np.uint64(1)
        summed = np.empty(dim, np.float32)
        # Of an occurrence: where its gradient lies, with which weight, and the next occurrence of the same row.
        example_of, column_of, chain = notes[0], notes[1], notes[2]
        heads, tails = notes[3], notes[4]
        begin = 0
        while begin < len(groups):
            end, here = begin, 0
            while end < len(groups) and groups[end] >> 32 == groups[begin] >> 32:
                feature = groups[end] & 0xFFFFFFFF
                here += offsets[(feature + 1) * examples] - offsets[feature * examples]
                end += 1
            size = 16
            while size < 2 * here:
                size *= 2
            places[:size] = -1
            mask = np.uint64(size - 1)
            found = np.uint64(0)
            for group in range(begin, end):
                feature = groups[group] & 0xFFFFFFFF
                column = feature * dim
                for example in range(examples):
                    bag = np.uint64(feature * examples + example)
                    begins, ends = offsets[bag], offsets[bag + one]
                    scale = np.float32(1)
                    if ends - begins > 1 and means[feature]:
                        scale /= np.float32(ends - begins)
                    for at in range(begins, ends):
                        i = np.uint64(at)
                        row = np.uint64(rows[i])
                        if row == 0 or (parts > 1 and np.int64(row) % parts != part):
                            continue
                        example_of[i], column_of[i], chain[i] = example, column, -1
                        scales[i] = scale * weights[i] if weighted else scale
                        place = (row * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(40)) & mask
                        known = places[place]
                        while known >= 0 and np.uint64(distinct[np.uint64(known)]) != row:
                            place = (place + one) & mask
                            known = places[place]
                        if known < 0:
                            places[place], distinct[found], heads[found], tails[found] = found, row, i, i
                            found += one
                        else:
                            chain[np.uint64(tails[np.uint64(known)])] = i
                            tails[np.uint64(known)] = i
            for n in range(np.int64(found)):
                if n + AHEAD < np.int64(found):
                    later = np.uint64(n + AHEAD)
                    soon, head = np.uint64(distinct[later]), np.uint64(heads[later])
                    prefetch(floats, soon, np.uint64(0))
                    prefetch(floats, soon, np.uint64(16))
                    prefetch(grad, np.uint64(example_of[head]), np.uint64(column_of[head]))
                for d in range(dim):
                    summed[d] = 0
                next_one = heads[np.uint64(n)]
                while next_one >= 0:
                    i = np.uint64(next_one)
                    example_at, first, scale = np.uint64(example_of[i]), np.uint64(column_of[i]), scales[i]
                    for d in range(dim):
                        summed[d] += scale * grad[example_at, first + np.uint64(d)]
                    next_one = chain[i]
                row = np.uint64(distinct[np.uint64(n)])
                apply(floats, row, summed, constants, lr)
                words[row, VERSION] = version
            begin = end

    return update
