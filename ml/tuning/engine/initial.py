"""The first suggestions of a study: a low-discrepancy sequence, before there are results to model."""

from __future__ import annotations

from ml.tuning.definition import Study
from ml.tuning.engine.sampling import low_discrepancy_points
from ml.tuning.engine.space import Point, SearchSpace

SHARE = 3  # at most a third of the budget
LEAST = 6  # with four, one of ten runs of a problem of two parameters did not leave the first region that met its thresholds


def initial_count(study: Study) -> int:
    """Return how many points are tried before results are modelled.

    Two per dimension, at least six, at most a third of the budget. Parallel workers lengthen the sequence, since they ask for
    points before the first results.
    """
    dimensions = len(study.space.parameters) + len(study.space.conditionals)
    wanted = max(2 * dimensions, LEAST) + study.bandwidth - 1
    return wanted if study.budget is None else min(wanted, max(study.budget // SHARE, 2))


def is_initial(study: Study) -> bool:
    """Whether the next suggestion belongs to the initial sequence. Results of earlier experiments count."""
    return len(study.observations) + len(study.open) < initial_count(study)


def initial_point(space: SearchSpace, study: Study) -> Point:
    """Return the point of the initial sequence that follows the results and open suggestions."""
    n = len(study.observations) + len(study.open)
    return low_discrepancy_points(space, n + 1, study.seed)[n]
