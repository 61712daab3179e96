"""Category drift: how much the distribution of a feature's values differs from recent days."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ml.quality.histogram import Histogram
from ml.quality.noise import Drift

NOISE = 0.02  # tolerated index between two samples of the same distribution
SMOOTHING = 0.5  # ids added to each bucket, so that the logarithm of an empty one is finite

Counts = npt.NDArray[np.float64]


def population_stability_index(today: Histogram, before: Sequence[Histogram], vocabulary: bool = False) -> Drift | None:
    """Computes the population stability index (Siddiqi, 2006), `Σ (p - q) ln(p / q)` over buckets.

    p are the shares of today's ids in each bucket (missing, out of vocabulary, and the buckets of values), and q the shares of
    all ids of the days before. By convention, an index below 0.1 means no drift, up to 0.25 moderate drift, and above 0.25
    strong drift.

    Between samples of n and m ids from one distribution, the index of B buckets is about `(B - 1) (1/n + 1/m)` (Yurdakul,
    2018). The number of value buckets is halved until this is at most `NOISE`.

    Args:
        today: Histogram of the day.
        before: Histograms of recent days.
        vocabulary: Whether the feature has a growing vocabulary. Days without any known value are then excluded.

    Returns:
        The index; None if there are no ids to compare, or too few for two value buckets.
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
    p, q = _counts([today], buckets), _counts(days, buckets)
    return Drift(stability_index(p, q), len(p), 1 / n + 1 / m)


def stability_index(today: Counts, before: Counts) -> float:
    """Computes `Σ (p - q) ln(p / q)` of the shares p of today's counts and q of the counts before, each [B] and above 0."""
    p, q = today / today.sum(), before / before.sum()
    return float(np.sum((p - q) * np.log(p / q)))


def _counts(days: Sequence[Histogram], buckets: int) -> Counts:
    """Counts [buckets + 2], all above 0. Adding one half of the buckets to the other equals halving the modulus."""
    missing, unknown, *values = np.sum([day.counts for day in days], axis=0)
    return np.concatenate([[missing, unknown], np.reshape(values, (-1, buckets)).sum(axis=0)]) + SMOOTHING
