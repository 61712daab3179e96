"""The next suggestion of a study."""

from __future__ import annotations

import numpy as np

from ml.tuning.definition import Study, Value
from ml.tuning.engine.duplicates import Taken
from ml.tuning.engine.history import history
from ml.tuning.engine.initial import initial_point, is_initial
from ml.tuning.engine.niches import other_niches
from ml.tuning.engine.sampling import random_points
from ml.tuning.engine.space import Point, SearchSpace

EXPLORE = 2 / 3  # of the budget
LEAST_RESULTS = 2  # below, points are random
MOST_DIMENSIONS, MOST_RESULTS = 20, 250  # of a Gaussian process; beyond, its time grows and its advantage is gone


def suggest(study: Study) -> dict[str, Value]:
    """Return what to try next.

    The suggestion is in the space, satisfies its constraints and conditions, and is neither open nor has a result. The same
    study gives the same suggestion.

    Args:
        study: The space, the metrics, results and open suggestions.

    Returns:
        A value for each conditional, and for each parameter whose conditions are met.

    Raises:
        Exhausted: If every point of a discrete space has a result or is open.
        NoFeasiblePoint: If the linear constraints exclude every point.

    Example:
        >>> from ml.tuning.definition import Metric, Parameter, Space, Study
        >>> space = Space((Parameter("layers", "int", low=1, high=4),))
        >>> suggest(Study(space, (Metric("auc"),), open=({"layers": 1}, {"layers": 2}, {"layers": 4})))
        {'layers': 3}
    """
    space = SearchSpace(study.space)
    taken = Taken(space, [*(one.assignments for one in study.observations), *study.open])
    if study.kind == "grid":
        return taken.next_free()
    rng = np.random.default_rng([study.seed, len(study.observations), len(study.open)])
    if study.kind == "offline" and is_initial(study):
        return taken.free(initial_point(space, study), rng)
    return taken.free(_modelled(space, study, taken, rng) if study.kind == "offline" else random_points(space, 1, rng)[0], rng)


def _modelled(space: SearchSpace, study: Study, taken: Taken, rng: np.random.Generator) -> Point:
    """Return the point that a model of the results suggests, or a random point if there is nothing to model."""
    from ml.tuning.engine.gaussian_process import gaussian_process_point  # PyTorch takes seconds to import
    from ml.tuning.engine.tree_parzen import parzen_point

    known = history(space, study)
    free = [dimension for dimension in space.dimensions if dimension.size > 1]
    if (~known.failed).sum() < LEAST_RESULTS or not free:
        return random_points(space, 1, rng)[0]
    others = other_niches(space, known, study.solutions)
    if len(free) > MOST_DIMENSIONS or len(known.tried) > MOST_RESULTS or any(d.conditions for d in free):
        return parzen_point(space, known if others is None else others.excluded_from(known), rng)
    return gaussian_process_point(space, known, taken, _caution(study), rng, others)


def _caution(study: Study) -> int:
    """Return how much the probability of meeting thresholds counts: every second time, and at the end of the budget, squared.

    The other suggestions explore the borders of the region that meets the thresholds, and other regions.
    """
    used = len(study.observations) + len(study.open)
    late = study.budget is not None and used >= EXPLORE * study.budget
    return 2 if late or used % 2 else 1
