"""Category drift: how differently a feature's values are spread today than in the days before. Figures only, no verdict."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ml.quality.histogram import Histogram

NOISE = 0.02  # of the index, between two samples of one distribution, that is put up with
SMOOTHING = 0.5  # rows added to each bucket, so that an empty one has a logarithm

Counts = npt.NDArray[np.float64]


def population_stability_index(today: Histogram, before: Sequence[Histogram], vocabulary: bool = False) -> float | None:
    """The index (Siddiqi, 2006): `Σ (p - q) ln(p / q)` over buckets; None where there is nothing to compare with.

    p: shares of today's ids; q: shares of the ids of the days before, all together: a day weighs what it holds. Buckets are
    missing, out of vocabulary, and the values by id. Read by custom: under 0.1 none, to 0.25 some, above it much drift.

    Between samples of n and m ids from one distribution the index is about `(B - 1) (1/n + 1/m)` (Yurdakul, 2018): where
    that is above `NOISE` the value buckets are folded, halving their number, until it is not; with too few ids even for
    two of them the answer is None.

    vocabulary: of a feature with a growing vocabulary, only days on which it knew some value compare.
    """
    days = [h for h in before if sum(h.counts) and (h.known or not vocabulary)]
    if not days or not sum(today.counts):
        return None
    n, m = sum(today.counts), sum(sum(h.counts) for h in days)
    buckets = len(today.buckets)
    while (buckets + 1) * (1 / n + 1 / m) > NOISE and buckets > 1:
        buckets //= 2
    if buckets < 2:
        return None
    p, q = _shares([today], buckets), _shares(days, buckets)
    return float(np.sum((p - q) * np.log(p / q)))


def _shares(days: Sequence[Histogram], buckets: int) -> Counts:
    """[buckets + 2] shares, none of them 0. Folding halves onto each other is taking ids modulo half as much."""
    missing, unknown, *values = np.sum([day.counts for day in days], axis=0)
    counts = np.concatenate([[missing, unknown], np.reshape(values, (-1, buckets)).sum(axis=0)]) + SMOOTHING
    return counts / counts.sum()
