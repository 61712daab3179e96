"""Recall and mean reciprocal rank, their standard errors, and paired differences of two systems on the same requests."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml.evaluation.compare import Estimate, LabelledRows, Linearised
from ml.retrieval.ranks import MISSED

CUTS = (10, 20, 100)
RECIPROCAL_CUT = 20
METRICS = (*(f"recall@{cut}" for cut in CUTS), f"mrr@{RECIPROCAL_CUT}")
HEADLINE = "recall@20"
POPULAR_AUC = "popular_auc"
"""AUC of the clicked items against items that are drawn in proportion to their clicks in the first popularity window."""


def hits(ranks: NDArray[np.int32], cut: int) -> NDArray[np.float64]:
    """Return 1 for each request whose item is among the first `cut`, else 0. float64 [N]."""
    return ((ranks != MISSED) & (ranks < cut)).astype(np.float64)


def values_of(ranks: NDArray[np.int32]) -> dict[str, NDArray[np.float64]]:
    """Return what each metric is the mean of, float64 [N] by name of the metric."""
    values = {f"recall@{cut}": hits(ranks, cut) for cut in CUTS}
    return values | {f"mrr@{RECIPROCAL_CUT}": hits(ranks, RECIPROCAL_CUT) / (ranks + 1.0).clip(min=1)}


def ranking_metrics(
    ranks: NDArray[np.int32], groups: NDArray[np.int64], above: NDArray[np.float32] | None = None
) -> dict[str, Any]:
    """Compute the metrics of a system.

    Args:
        ranks: int32 [N], number of items before the clicked one, or `MISSED`.
        groups: int64 [N]. Requests of one group, such as a session, are not independent, which the errors take into account.
        above: float32 [N], as in `ClickRanks`, for `popular_auc`. Requests with NaN do not count for it.

    Returns:
        `requests`, each of `METRICS`, `popular_auc` if `above` is given, and `standard_errors` of the metrics. Metrics of no
        requests, and errors of fewer than two groups, are None.
    """
    found: dict[str, Any] = {"requests": len(ranks)} | dict.fromkeys(METRICS)
    errors: dict[str, float | None] = dict.fromkeys(METRICS)
    if len(ranks):
        for name, values in values_of(ranks).items():
            estimate = clustered_mean(values, groups)
            found[name], errors[name] = estimate.value, estimate.error
    if above is not None:
        known = ~np.isnan(above)
        auc = clustered_mean(above[known].astype(np.float64), groups[known]) if known.any() else None
        found[POPULAR_AUC], errors[POPULAR_AUC] = (auc.value, auc.error) if auc else (None, None)
    return found | {"standard_errors": errors}


def paired_difference(
    ranks: NDArray[np.int32], others: NDArray[np.int32], groups: NDArray[np.int64], metric: str = HEADLINE
) -> Estimate | None:
    """Compare two systems on the same N requests: the metric of `ranks` less the metric of `others`. None without requests."""
    return clustered_mean(values_of(ranks)[metric] - values_of(others)[metric], groups) if len(ranks) else None


def clustered_mean(values: NDArray[np.float64], groups: NDArray[np.int64]) -> Estimate:
    """Estimate the mean of values, float64 [N], whose values within a group, int64 [N], are not independent."""
    mean = float(values.mean())
    return LabelledRows(np.ones(len(values)), groups).estimate(Linearised(mean, (values - mean) / len(values)))
