"""The plan of a batch's exchange: in which order occurrences are sent to the ranks that own their rows, and how the rows that
come back are pooled.

A place is a pair of an owner and a feature. Each distinct id is requested once per place; its further occurrences are sent
too, because owners count them, but no rows come back for those.
"""

from __future__ import annotations

import numpy as np

from ml.compute.kernel_cache import jit
from ml.hashing import GOLDEN, mix64


@jit
def plan_exchange(ids, places, count):  # type: ignore[no-untyped-def]
    """Order occurrences by place; within a place, first occurrences of distinct ids before repeated ones.

    Args:
        ids: int64 [N].
        places: int64 [N], in [0, count).
        count: Number of places.

    Returns:
        order: int64 [N], positions of the occurrences in the order in which they are sent.
        row_of: int64 [N], for each occurrence the index of its id among all distinct ids in that order.
        counts: int64 [count, 2], distinct and repeated occurrences of each place.
    """
    slots = np.full(_power_above(2 * len(ids)), -1, np.int64)
    last = np.uint64(len(slots) - 1)
    first, counts = np.empty(len(ids), np.int64), np.zeros((count, 2), np.int64)
    for n in range(len(ids)):
        at = mix64(np.uint64(ids[n]) + np.uint64(places[n]) * np.uint64(GOLDEN)) & last
        while slots[at] >= 0 and (ids[slots[at]] != ids[n] or places[slots[at]] != places[n]):
            at = (at + np.uint64(1)) & last
        repeated = slots[at] >= 0
        if not repeated:
            slots[at] = n
        first[n] = slots[at]
        counts[places[n], np.int64(repeated)] += 1
    # Per place: where the next distinct and the next repeated occurrence are sent, and the index of the next distinct id.
    begin, distinct = np.empty((count, 2), np.int64), np.empty(count, np.int64)
    sent = known = 0
    for place in range(count):
        begin[place, 0], begin[place, 1], distinct[place] = sent, sent + counts[place, 0], known
        sent += counts[place, 0] + counts[place, 1]
        known += counts[place, 0]
    order, row_of = np.empty(len(ids), np.int64), np.empty(len(ids), np.int64)
    for n in range(len(ids)):
        place, repeated = places[n], np.int64(first[n] != n)
        order[begin[place, repeated]] = n
        begin[place, repeated] += 1
        if repeated:
            row_of[n] = row_of[first[n]]
        else:
            row_of[n] = distinct[place]
            distinct[place] += 1
    return order, row_of, counts


@jit
def pool_rows(rows, row_of, offsets, means, examples, out):  # type: ignore[no-untyped-def]
    """Add up the rows of each bag.

    Args:
        rows: float32 [U, D].
        row_of: int64 [N], the row of each occurrence.
        offsets: int64 [F * B + 1], of the bags in the occurrences, by feature and within it by example.
        means: bool [F], whether a feature's bags are averaged.
        examples: B.
        out: float32 [B, F * D], zeros; the pooled rows are added here.
    """
    dim = rows.shape[1]
    for bag in range(len(offsets) - 1):
        feature, example = bag // examples, bag % examples
        share = _share(offsets[bag + 1] - offsets[bag], means[feature])
        for at in range(offsets[bag], offsets[bag + 1]):
            for d in range(dim):
                out[example, feature * dim + d] += share * rows[row_of[at], d]


@jit
def sum_row_gradients(grad, row_of, offsets, means, examples, out):  # type: ignore[no-untyped-def]
    """Sum the gradients of each row over its bags: the backward pass of `pool_rows`.

    Args:
        grad: float32 [B, F * D], gradients of the bags.
        row_of, offsets, means, examples: As for `pool_rows`.
        out: float32 [U, D], zeros; the gradients of rows are added here.
    """
    dim = out.shape[1]
    for bag in range(len(offsets) - 1):
        feature, example = bag // examples, bag % examples
        share = _share(offsets[bag + 1] - offsets[bag], means[feature])
        for at in range(offsets[bag], offsets[bag + 1]):
            for d in range(dim):
                out[row_of[at], d] += share * grad[example, feature * dim + d]


@jit(inline="always")
def _share(length, mean):  # type: ignore[no-untyped-def]
    return np.float32(1) / np.float32(length) if mean and length > 1 else np.float32(1)


@jit
def _power_above(least):  # type: ignore[no-untyped-def]
    power = 16
    while power < least:
        power *= 2
    return power
