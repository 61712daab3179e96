"""Plan of the exchange of a batch: the order in which occurrences are sent to owners, and the pooling of returned rows.

A place is a pair of an owner and a feature. Each distinct id is requested once per place. Repeated occurrences are also sent,
because owners count them, but no rows are returned for them.
"""

from __future__ import annotations

import numpy as np

from ml.compute.kernel_cache import jit
from ml.hashing import GOLDEN, mix64


@jit
def plan_exchange(ids, places, count):  # type: ignore[no-untyped-def]
    """Order occurrences by place. Within a place, the first occurrences of distinct ids precede repeated occurrences.

    Args:
        ids: Id of each occurrence, int64 [N].
        places: Place of each occurrence, int64 [N], in [0, count).
        count: Number of places.

    Returns:
        order: Positions of the occurrences in the order in which they are sent, int64 [N].
        row_of: For each occurrence, the index of its id among the distinct ids in that order, int64 [N].
        counts: Number of distinct and of repeated occurrences at each place, int64 [count, 2].
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
    # By place: positions in `order` of the next distinct and repeated occurrences, and the index of the next distinct id.
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
    """Pool the rows of each bag.

    Args:
        rows: Rows, float32 [U, D].
        row_of: Index in `rows` of each occurrence, int64 [N].
        offsets: Offsets of the bags in the occurrences, int64 [F * B + 1], ordered by feature and then by example.
        means: Whether the bags of each feature are averaged, bool [F].
        examples: Number of examples, B.
        out: Output, float32 [B, F * D]; must be zeros.
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
    """Sum the gradient of each row over its bags. This is the backward pass of `pool_rows`.

    Args:
        grad: Gradient of the pooled rows, float32 [B, F * D].
        row_of: As for `pool_rows`.
        offsets: As for `pool_rows`.
        means: As for `pool_rows`.
        examples: As for `pool_rows`.
        out: Output, float32 [U, D]; must be zeros.
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
