"""Drift of features between sketches, as population stability indices."""

from __future__ import annotations

import numpy as np

from ml.advisor.profiles.sketch import Sketch
from ml.advisor.profiles.value_counts import ValueCounts
from ml.quality.drift import NOISE, SMOOTHING, population_stability_index, stability_index

BINS = 10


def drift_between(today: Sketch, before: Sketch | None, vocabularies: frozenset[str] = frozenset()) -> dict[str, float | None]:
    """Computes the drift of each feature.

    Args:
        today: Sketch of the day.
        before: Sketch of the days before; None if there are none.
        vocabularies: Sparse features with a growing vocabulary. Days on which none of their ids is known are not compared.

    Returns:
        The index by feature; None if there is nothing to compare, or too little.
    """
    if before is None:
        return dict.fromkeys([*today.dense, *today.sparse])
    dense = {name: dense_drift(now.values, before.dense[name].values) for name, now in today.dense.items()}
    sparse = {
        name: population_stability_index(now.histogram, [before.sparse[name].histogram], name in vocabularies)
        for name, now in today.sparse.items()
    }
    return dense | sparse


def dense_drift(today: ValueCounts, before: ValueCounts) -> float | None:
    """Computes the index over the deciles of the days before, or over fewer quantiles for few rows.

    Between samples of n and m rows from one distribution, the index of B bins is about `(B - 1) (1/n + 1/m)`. The number of
    bins is reduced until this is at most `NOISE`.
    """
    n, m = int(today.counts.sum()), int(before.counts.sum())
    if not n or not m:
        return None
    bins = min(BINS, int(NOISE / (1 / n + 1 / m)) + 1)
    if bins < 2:
        return None
    edges = np.unique(before.quantiles([i / bins for i in range(1, bins)]))
    counts = [
        np.bincount(np.searchsorted(edges, c.values, side="left"), c.counts, len(edges) + 1) + SMOOTHING
        for c in (today, before)
    ]
    return stability_index(*counts)
