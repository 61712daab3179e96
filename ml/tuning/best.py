"""The best observations of an experiment: those that meet all thresholds and that no other one dominates."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ml.tuning.definition import Observation
from ml.tuning.engine.front import feasible, front, knee, losses
from ml.tuning.engine.niches import distances, niches, positions
from ml.tuning.engine.space import SearchSpace
from ml.tuning.experiment import Experiment

POOL = 0.5  # share of the observations, the best ones, from which several solutions are chosen


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
    """Return the indexes of several good observations that differ.

    These are the best observations of their niches, as the search sees them. If there are fewer niches than solutions, the
    observations follow that are farthest from those chosen.
    """
    count = found.num_solutions or 1
    allowed = [index for index, one in enumerate(observations) if feasible(found.metrics, one)]
    allowed.sort(key=lambda index: float(losses(found.metrics, [observations[index]])[0, 0]))
    pool = allowed[: max(count, math.ceil(POOL * len(allowed)))]
    space, tried = SearchSpace(found.space), [observations[index].assignments for index in pool]
    points = positions(space, tried)
    chosen = niches(space, tried, losses(found.metrics, [observations[index] for index in pool])[:, 0], count)
    while len(chosen) < min(count, len(pool)):
        nearest = np.min([distances(space, points, points[n]) for n in chosen], axis=0)
        nearest[chosen] = -1
        chosen.append(int(np.argmax(nearest)))
    return [pool[n] for n in chosen]
