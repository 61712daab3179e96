"""The distribution of frequencies of ids: numbers of ids by power of two, and the exponent of Zipf's law."""

from __future__ import annotations

import numpy as np

from ml.advisor.profiles.id_counts import IdCounts, Ints

FEW = 10  # ids, and occurrences of an id: below them, ranks are mostly noise
POINTS = 64


def frequencies(counts: IdCounts) -> tuple[int, ...]:
    """Returns the number of ids with a count in [2^k, 2^(k+1)), for k = 0, 1, ... up to the largest count.

    Example:
        >>> from ml.advisor.profiles.id_counts import count_ids
        >>> frequencies(count_ids(np.array([2, 3, 4, 4, 5, 5, 5])))
        (2, 2)
    """
    if not len(counts.counts):
        return ()
    octaves = np.frexp(counts.counts.astype(np.float64))[1] - 1
    return tuple(int(n) << counts.level for n in np.bincount(octaves))


def zipf_exponent(counts: IdCounts) -> float | None:
    """Fits `count ~ rank^-s` (Zipf, 1935) by least squares on the logarithms, at ranks with equal distances in logarithm.

    Only ids with at least 10 occurrences are used, because the ranks of rarer ids follow chance. If fewer than 10 ids are that
    frequent, all are used. In a sample of the ids, the i-th id has about the rank `i 2^level`.

    Returns:
        The exponent s; None with fewer than 10 ids.
    """
    descending = np.sort(counts.counts)[::-1]
    if len(descending) < FEW:
        return None
    frequent = int(np.count_nonzero(descending >= FEW))
    return _slope(descending[:frequent] if frequent >= FEW else descending, counts.level)


def _slope(descending: Ints, level: int) -> float:
    at = np.unique(np.geomspace(1, len(descending), POINTS).round().astype(np.int64)) - 1
    ranks = (at + 0.5) * 2.0**level + 0.5  # the middle of the ranks for which a sampled id stands
    x, y = np.log(ranks), np.log(descending[at].astype(np.float64))
    x -= x.mean()
    return float(-(x @ (y - y.mean())) / (x @ x)) + 0.0
