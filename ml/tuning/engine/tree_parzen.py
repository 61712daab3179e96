"""Suggestions of Optuna's tree-structured Parzen estimator.

They serve spaces and histories that are too large for Gaussian processes, and parameters with conditions.
"""

from __future__ import annotations

import warnings

import numpy as np
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import TPESampler
from optuna.trial import Trial

from ml.tuning.definition import Value
from ml.tuning.engine.history import History
from ml.tuning.engine.optuna_study import distribution, from_optuna, rebuild
from ml.tuning.engine.space import Dimension, Point, SearchSpace


def parzen_point(space: SearchSpace, known: History, rng: np.random.Generator) -> Point:
    """Return the point that the estimator suggests, moved into the linear constraints.

    Parameters under different conditions are modelled in groups, each jointly. Open points count as bad ones ("constant liar").
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        sampler = TPESampler(
            n_startup_trials=1, multivariate=True, group=True, constant_liar=True, seed=int(rng.integers(2**31))
        )
    trial = rebuild(space, known, sampler).ask()
    chosen: dict[str, Value] = {}
    for dimension in space.dimensions:  # conditionals come first
        if dimension.exists(chosen):
            chosen[dimension.name] = _chosen(trial, dimension)
    point = space.point(chosen)
    return space.repaired(point[None])[0]


def _chosen(trial: Trial, dimension: Dimension) -> Value:
    if dimension.size == 1:
        return dimension.value(0.5)
    match distribution(dimension):
        case FloatDistribution(low=low, high=high, log=log):
            value: Value = trial.suggest_float(dimension.name, low, high, log=log)
        case IntDistribution(low=low, high=high, log=log):
            value = trial.suggest_int(dimension.name, low, high, log=log)
        case CategoricalDistribution(choices=choices):
            value = str(trial.suggest_categorical(dimension.name, choices))
        case other:
            raise TypeError(f"{dimension.name} has the unknown distribution {other}.")
    return from_optuna(dimension, value)
