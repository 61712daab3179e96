"""The best results: those that meet all thresholds, the Pareto front among them, its hypervolume and its knee."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ml.tuning.definition import Metric, Observation


def optimized(metrics: Sequence[Metric]) -> list[Metric]:
    """Return the metrics with `strategy: optimize`."""
    return [metric for metric in metrics if metric.strategy == "optimize"]


def limited(metrics: Sequence[Metric]) -> list[Metric]:
    """Return the metrics with a threshold."""
    return [metric for metric in metrics if metric.strategy != "store" and metric.threshold is not None]


def measured(metrics: Sequence[Metric], observation: Observation) -> bool:
    """Whether an observation has a finite value for each metric that is optimized or has a threshold."""
    if observation.failed:
        return False
    names = {metric.name for metric in (*optimized(metrics), *limited(metrics))}
    return all(math.isfinite(observation.values.get(name, math.nan)) for name in names)


def feasible(metrics: Sequence[Metric], observation: Observation) -> bool:
    """Whether an observation did not fail and meets all thresholds."""
    return measured(metrics, observation) and all(metric.meets(observation.values[metric.name]) for metric in limited(metrics))


def losses(metrics: Sequence[Metric], observations: Sequence[Observation]) -> NDArray[np.float64]:
    """Return the optimized metrics, with the sign at which smaller is better. shape: (observations, metrics)."""
    chosen = optimized(metrics)
    rows = [[-o.values[m.name] if m.objective == "maximize" else o.values[m.name] for m in chosen] for o in observations]
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(chosen))


def front(metrics: Sequence[Metric], observations: Sequence[Observation]) -> list[int]:
    """Return the best observations.

    Args:
        metrics: The metrics of the experiment.
        observations: Its results.

    Returns:
        Indexes of the feasible observations that no other one dominates, best first by the first optimized metric. With one
        optimized metric, this is one observation; with two, the Pareto front; with none, all feasible observations.

    Example:
        >>> auc, seconds = Metric("auc"), Metric("seconds", "minimize", threshold=100)
        >>> tried = [(0.78, 50), (0.80, 90), (0.79, 95), (0.82, 200)]
        >>> front([auc, seconds], [Observation({}, {"auc": a, "seconds": s}) for a, s in tried])
        [1, 0]
    """
    allowed = [n for n, one in enumerate(observations) if feasible(metrics, one)]
    if not optimized(metrics):
        return allowed
    values = losses(metrics, [observations[n] for n in allowed])
    best: list[int] = []
    lowest = math.inf
    for n in np.lexsort(values.T[::-1]):  # by the first metric, then by the second; equal ones in order of time
        if not best or (values.shape[1] > 1 and values[n, 1] < lowest):
            best.append(allowed[n])
            lowest = values[n, -1]
    return best


def hypervolume(points: NDArray[np.float64], reference: Sequence[float]) -> float:
    """Return the area that points dominate, up to a reference.

    Args:
        points: Two losses for each point; smaller is better. shape: (n, 2)
        reference: The worst losses that count.

    Example:
        >>> hypervolume(np.array([[1.0, 2.0], [2.0, 1.0], [9.0, 9.0]]), (3.0, 3.0))
        3.0
    """
    area, lowest = 0.0, float(reference[1])
    inside = points[(points < np.asarray(reference)).all(axis=1)]
    for first, second in inside[np.lexsort(inside.T[::-1])]:
        if second < lowest:
            area += float((reference[0] - first) * (lowest - second))
            lowest = float(second)
    return area


def knee(metrics: Sequence[Metric], observations: Sequence[Observation]) -> int | None:
    """Return the best compromise of the Pareto front of two metrics.

    The metrics are scaled so that the ends of the front are at 0 and 1. The knee is the observation farthest from the line
    between the ends, on its better side (Das 1999).

    Args:
        metrics: The metrics of the experiment.
        observations: Its results.

    Returns:
        Its index; of one metric the best observation; None if no observation is feasible or nothing is optimized.
    """
    best = front(metrics, observations)
    if not best or not optimized(metrics):
        return None
    values = losses(metrics, [observations[n] for n in best])
    span = values.max(axis=0) - values.min(axis=0)
    scaled = (values - values.min(axis=0)) / np.where(span > 0, span, 1)
    return best[int(np.argmin(scaled.sum(axis=1)))]
