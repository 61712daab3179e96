"""A study in Optuna's terms, in memory: distributions, finished and running trials."""

from __future__ import annotations

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.trial import TrialState, create_trial

from ml.tuning.definition import Assignments, Value
from ml.tuning.engine.history import History
from ml.tuning.engine.space import Dimension, SearchSpace


def free_dimensions(space: SearchSpace) -> list[Dimension]:
    """Return the dimensions with more than one value, which are those that samplers see, in the order of Optuna's."""
    return sorted((dimension for dimension in space.dimensions if dimension.size > 1), key=lambda dimension: dimension.name)


def distribution(dimension: Dimension) -> BaseDistribution:
    """Return a dimension's distribution. Grids are searched by index, which keeps their order."""
    if dimension.values is None:
        return FloatDistribution(dimension.low, dimension.high, log=dimension.log)
    if dimension.categorical:
        return CategoricalDistribution([str(value) for value in dimension.values])
    if isinstance(dimension.values, range):
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return IntDistribution(0, len(dimension.values) - 1)


def to_optuna(dimension: Dimension, value: Value) -> Value:
    """Return a value as the distribution has it."""
    return list(dimension.values).index(value) if dimension.values is not None and dimension.grid else value


def from_optuna(dimension: Dimension, value: Value) -> Value:
    """Return a distribution's value as the space has it."""
    return dimension.values[int(value)] if dimension.values is not None and dimension.grid else value


def rebuild(space: SearchSpace, known: History, sampler: BaseSampler) -> optuna.Study:
    """Return a study with all finished points as complete trials and all open points as running trials.

    Failed points are complete, too, and violate a constraint.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=sampler, directions=["minimize"] * known.losses.shape[1])
    dimensions = free_dimensions(space)
    distributions = {dimension.name: distribution(dimension) for dimension in dimensions}

    def parts(assignments: Assignments) -> tuple[dict[str, Value], dict[str, BaseDistribution]]:
        values = {d.name: to_optuna(d, assignments[d.name]) for d in dimensions if d.name in assignments}
        return values, {name: distributions[name] for name in values}

    limits = known.limits
    if known.failed.any():
        limits = np.column_stack([limits, np.where(known.failed, 1.0, -1.0)])
    for tried, losses, row in zip(known.tried, known.losses, limits, strict=True):
        params, ranges = parts(tried)
        constraints = {str(n): float(value) for n, value in enumerate(row)}
        study.add_trial(create_trial(params=params, distributions=ranges, values=losses.tolist(), constraints=constraints))
    for tried in known.open:
        params, ranges = parts(tried)
        study.add_trial(create_trial(state=TrialState.RUNNING, params=params, distributions=ranges))
    return study
