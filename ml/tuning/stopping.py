"""When an experiment has probably found what it can find."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ml.tuning.best import best
from ml.tuning.definition import Observation
from ml.tuning.experiment import Experiment

LOOKBACK = 5  # observations per parameter without an improvement
TOP = 5  # how many of the earlier results the later ones have to exceed to count as an improvement


def stagnates(found: Experiment, observations: Sequence[Observation]) -> bool:
    """Whether the last five observations per parameter have brought nothing.

    With one optimized metric, none of them is better than the fifth best before them. With two, or with several solutions, none
    of them is among the best. An experiment with constraints alone never stagnates.
    """
    lookback = LOOKBACK * len(found.space.parameters)
    if len(observations) < lookback + TOP or not found.optimized:
        return False
    metric, *others = found.optimized
    if others or (found.num_solutions or 1) > 1:
        return all(index < len(observations) - lookback for index in best(found, observations))
    sign = 1 if metric.objective == "maximize" else -1
    values = [-math.inf if one.failed else sign * one.values[metric.name] for one in observations]
    return sorted(values[:-lookback])[-TOP] >= max(values[-lookback:])


def reasons(found: Experiment, observations: Sequence[Observation], observed: float) -> list[str]:
    """Return why an experiment can stop.

    Args:
        found: The experiment.
        observations: Its observations, in order.
        observed: The budget that they have consumed.
    """
    reached = found.budget is not None and observed >= found.budget
    several = len(found.optimized) > 1 or (found.num_solutions or 1) > 1
    stagnant = (reached or not several) and stagnates(found, observations)
    return [name for name, holds in (("possible_stagnation", stagnant), ("observation_budget_reached", reached)) if holds]
