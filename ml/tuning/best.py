"""The best observations of an experiment: those that meet all thresholds and that no other one dominates."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ml.tuning.definition import Assignments, Observation, Parameter, Space, Value
from ml.tuning.engine.front import feasible, front, knee
from ml.tuning.experiment import Experiment

POOL = 0.25  # share of the observations, the best ones, from which several solutions are chosen


def best(found: Experiment, observations: Sequence[Observation]) -> list[int]:
    """Return the indexes of the best observations.

    Args:
        found: The experiment.
        observations: All its observations.

    Returns:
        One index; of two optimized metrics the Pareto front; of an experiment with constraints alone all observations that meet
        them; of one with several solutions as many observations, far from each other. Nothing if no observation meets all
        thresholds.
    """
    if (found.num_solutions or 1) > 1:
        return solutions(found, observations)
    return front(found.metrics, observations)


def compromise(found: Experiment, observations: Sequence[Observation]) -> int | None:
    """Return the index of the knee of the Pareto front of two metrics, None for other experiments."""
    return knee(found.metrics, observations) if len(found.optimized) == 2 else None


def solutions(found: Experiment, observations: Sequence[Observation]) -> list[int]:
    """Return the indexes of several good observations that differ: the best one, then the farthest from those chosen."""
    count, metric = found.num_solutions or 1, found.optimized[0]
    sign = -1 if metric.objective == "maximize" else 1
    allowed = [index for index, one in enumerate(observations) if feasible(found.metrics, one)]
    allowed.sort(key=lambda index: sign * observations[index].values[metric.name])
    pool = allowed[: max(count, math.ceil(POOL * len(allowed)))]
    chosen = pool[:1]
    while len(chosen) < min(count, len(pool)):
        chosen.append(
            max(
                (index for index in pool if index not in chosen),
                key=lambda index: min(
                    distance(found.space, observations[index].assignments, observations[other].assignments) for other in chosen
                ),
            )
        )
    return chosen


def distance(space: Space, a: Assignments, b: Assignments) -> float:
    """Return the Euclidean distance of two assignments, with all parameters scaled to [0, 1]."""
    return math.sqrt(sum(_difference(one, a.get(one.name), b.get(one.name)) ** 2 for one in space.parameters))


def _difference(parameter: Parameter, a: Value | None, b: Value | None) -> float:
    if isinstance(a, str) or isinstance(b, str) or a is None or b is None:
        return float(a != b)
    low, high = float(parameter.low or 0), float(parameter.high or 0)
    if parameter.log:
        return abs(math.log(a / b)) / math.log(high / low)
    return abs(a - b) / (high - low)
