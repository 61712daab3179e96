"""Who is asked for what: a batch's occurrences in the order in which they go to their owners, and which of them are alike;
and bags of the rows that come back.
"""

from __future__ import annotations

import numpy as np

from ml.compute.kernel_cache import jit
from ml.hashing import GOLDEN, mix64


@jit
def route(ids, places, count):  # type: ignore[no-untyped-def]
    """By place, the first occurrences of its distinct ids before the others, both as they came.

    ids, places: int64 [N]; places in [0, count), such as an owner and a feature. Gives the order, int64 [N]; of each occurrence
    the number of its id among all distinct ones so ordered, int64 [N]; and how many distinct and other occurrences a place has,
    int64 [count, 2].
    """
    slots = np.full(_power_above(2 * len(ids)), -1, np.int64)
    last = np.uint64(len(slots) - 1)
    first, counts = np.empty(len(ids), np.int64), np.zeros((count, 2), np.int64)
    for n in range(len(ids)):
        at = mix64(np.uint64(ids[n]) + np.uint64(places[n]) * np.uint64(GOLDEN)) & last
        while slots[at] >= 0 and (ids[slots[at]] != ids[n] or places[slots[at]] != places[n]):
            at = (at + np.uint64(1)) & last
        again = slots[at] >= 0
        if not again:
            slots[at] = n
        first[n] = slots[at]
        counts[places[n], np.int64(again)] += 1
    # Where the next of each kind goes, and the number of the next distinct id.
    begin, distinct = np.empty((count, 2), np.int64), np.empty(count, np.int64)
    sent = known = 0
    for place in range(count):
        begin[place, 0], begin[place, 1], distinct[place] = sent, sent + counts[place, 0], known
        sent += counts[place, 0] + counts[place, 1]
        known += counts[place, 0]
    order, number = np.empty(len(ids), np.int64), np.empty(len(ids), np.int64)
    for n in range(len(ids)):
        place, again = places[n], np.int64(first[n] != n)
        order[begin[place, again]] = n
        begin[place, again] += 1
        if again:
            number[n] = number[first[n]]
        else:
            number[n] = distinct[place]
            distinct[place] += 1
    return order, number, counts


@jit
def pool(rows, number, offsets, means, examples, out):  # type: ignore[no-untyped-def]
    """Add up bags of rows, by feature and in it by example.

    rows: float32 [U, D]. number: int64 [N], the row of each occurrence. offsets: int64 [F * B + 1]. means: bool [F]. out:
    float32 [B, F * D], zeros.
    """
    dim = rows.shape[1]
    for bag in range(len(offsets) - 1):
        feature, example = bag // examples, bag % examples
        share = _share(offsets[bag + 1] - offsets[bag], means[feature])
        for at in range(offsets[bag], offsets[bag + 1]):
            for d in range(dim):
                out[example, feature * dim + d] += share * rows[number[at], d]


@jit
def spread(grad, number, offsets, means, examples, out):  # type: ignore[no-untyped-def]
    """`pool`'s way back: the summed gradients of rows, float32 [U, D], zeros before, from those of bags, float32 [B, F * D]."""
    dim = out.shape[1]
    for bag in range(len(offsets) - 1):
        feature, example = bag // examples, bag % examples
        share = _share(offsets[bag + 1] - offsets[bag], means[feature])
        for at in range(offsets[bag], offsets[bag + 1]):
            for d in range(dim):
                out[number[at], d] += share * grad[example, feature * dim + d]


@jit(inline="always")
def _share(length, mean):  # type: ignore[no-untyped-def]
    return np.float32(1) / np.float32(length) if mean and length > 1 else np.float32(1)


@jit
def _power_above(least):  # type: ignore[no-untyped-def]
    power = 16
    while power < least:
        power *= 2
    return power
