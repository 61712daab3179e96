"""The results of a study as numbers to model: losses to minimise, and constraints that are met at zero or below.

Losses and constraints are distances of a metric to its threshold, or to the median without one, in units of the median
distance, so all are of the order of one. Beyond the threshold the logarithm of the distance is taken, so that very bad results
do not hide the differences between good ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml.tuning.definition import Metric, Observation, Study, Value
from ml.tuning.engine.front import limited, measured, optimized
from ml.tuning.engine.space import SearchSpace


@dataclass(frozen=True)
class History:
    """What is known of a study's points, N finished ones and those that are open.

    Attributes:
        tried: Assignments of the finished points.
        failed: Whether a point has no metrics. Its losses and constraints are zero. shape: (N,)
        stopped: Whether it has none because it was stopped early. Nothing is known of its constraints. shape: (N,)
        losses: Optimized metrics, smaller is better; one column of zeros if none is optimized. shape: (N, metrics)
        bounded: Whether a loss has a threshold, which is zero. shape: (metrics,)
        constraints: Constraint metrics, met at zero or below. shape: (N, constraints)
        open: Assignments of the open points.
    """

    tried: list[dict[str, Value]]
    failed: NDArray[np.bool_]
    losses: NDArray[np.float64]
    bounded: NDArray[np.bool_]
    constraints: NDArray[np.float64]
    open: list[dict[str, Value]]
    stopped: NDArray[np.bool_]

    @property
    def limits(self) -> NDArray[np.float64]:
        """All that has to be zero or below: losses with a threshold, and constraints. shape: (N, limits)."""
        return np.hstack([self.losses[:, self.bounded], self.constraints])

    @property
    def feasible(self) -> NDArray[np.bool_]:
        """Whether a finished point did not fail and meets all thresholds. shape: (N,)."""
        return ~self.failed & (self.limits <= 0).all(axis=1)


def history(space: SearchSpace, study: Study) -> History:
    """Return the results of a study that lie in its space.

    Observations whose parameters are outside of the space, for example since bounds were changed, are left out.
    """
    completed = [(space.completed(one.assignments), one) for one in study.observations]
    inside = [(tried, one) for tried, one in completed if space.contains(tried)]
    results = [one for _, one in inside]
    failed = np.array([not measured(study.metrics, one) for one in results], dtype=bool)
    chosen, rows = optimized(study.metrics), len(results)
    losses = np.array([_distances(metric, results, failed) for metric in chosen]).T.reshape(rows, len(chosen))
    only_limited = [metric for metric in limited(study.metrics) if metric.strategy == "constraint"]
    constraints = np.array([_distances(metric, results, failed) for metric in only_limited]).T.reshape(rows, len(only_limited))
    return History(
        tried=[tried for tried, _ in inside],
        failed=failed,
        losses=losses if chosen else np.zeros((rows, 1)),
        bounded=np.array([metric.threshold is not None for metric in chosen] or [False]),
        constraints=constraints,
        stopped=np.array([one.stopped for one in results], dtype=bool),
        open=[one for one in map(space.completed, study.open) if space.contains(one)],
    )


def _distances(metric: Metric, results: Sequence[Observation], failed: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return how much worse than its threshold a metric is; negative where it is better. shape: (results,)."""
    distances = np.zeros(len(results))
    if failed.all():
        return distances
    sign = 1.0 if metric.objective == "minimize" else -1.0
    values = sign * np.array([one.values[metric.name] for one, bad in zip(results, failed, strict=True) if not bad])
    gaps = values - (np.median(values) if metric.threshold is None else sign * metric.threshold)
    unit = np.median(np.abs(gaps)) or np.abs(gaps).max() or 1.0
    distances[~failed] = np.where(gaps > 0, np.log1p(np.abs(gaps) / unit), gaps / unit)
    return distances
