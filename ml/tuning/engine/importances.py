"""How much each parameter matters for a metric."""

from __future__ import annotations

import math

import numpy as np
import optuna
from optuna.distributions import FloatDistribution
from optuna.importance import FanovaImportanceEvaluator
from optuna.trial import create_trial

from ml.tuning.definition import Study
from ml.tuning.engine.optuna_study import distribution, free_dimensions, to_optuna
from ml.tuning.engine.space import SearchSpace

LEAST = 4  # results
TREES = 32


def importances(study: Study, metric: str) -> dict[str, float]:
    """Return the share of a metric's variance that each parameter explains by itself.

    The variance is computed from a random forest that is fitted to the results (functional ANOVA; Hutter, Hoos and
    Leyton-Brown 2014).

    Args:
        study: The study. Failed observations and those outside of its space are left out.
        metric: Name of a metric.

    Returns:
        Shares by conditional and parameter, greatest first, with sum 1. Parameters with conditions, and those with one value,
        have share 0. Empty with fewer than four results, or if all results are equal.
    """
    space = SearchSpace(study.space)
    dimensions = [dimension for dimension in free_dimensions(space) if not dimension.conditions]
    # the forest computes in 32 bits, so numbers are given as positions between their bounds, and results as shares
    ranges = {d.name: distribution(d) if d.categorical else FloatDistribution(0, 1) for d in dimensions}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    results = optuna.create_study()
    seen = set()
    largest = max((abs(one.values.get(metric, 0.0)) for one in study.observations), default=0.0) or 1.0
    for one in study.observations:
        tried, value = space.completed(one.assignments), one.values.get(metric, math.nan)
        if one.failed or not math.isfinite(value) or not space.contains(tried):
            continue
        params = {d.name: to_optuna(d, tried[d.name]) if d.categorical else d.position(tried[d.name]) for d in dimensions}
        results.add_trial(create_trial(params=params, distributions=ranges, value=value / largest))
        seen.add(value)
    shares = {dimension.name: 0.0 for dimension in space.dimensions}
    if len(results.trials) < LEAST or len(seen) < 2 or not dimensions:
        return {}
    evaluator = FanovaImportanceEvaluator(n_trees=TREES, seed=study.seed)
    found = optuna.importance.get_param_importances(results, evaluator=evaluator)
    shares |= {name: float(np.clip(share, 0, 1)) for name, share in found.items()}
    return dict(sorted(shares.items(), key=lambda item: (-item[1], item[0])))
