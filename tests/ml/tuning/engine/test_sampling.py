"""Points that depend on no result."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ml.tuning.definition import LinearConstraint, Parameter, Prior, Space
from ml.tuning.engine.sampling import low_discrepancy_points, random_points
from ml.tuning.engine.space import SearchSpace

PRIORS = SearchSpace(
    Space(
        (
            Parameter("n", "double", 0.0, 2.0, prior=Prior("normal", 0.5, 0.4)),
            Parameter("b", "double", -1.0, 3.0, prior=Prior("beta", 2.0, 5.0)),
            Parameter("far", "double", 0.0, 1.0, prior=Prior("normal", 90.0, 0.1)),
        )
    )
)


@pytest.mark.parametrize("sequence", [False, True])
def test_points_follow_the_priors(sequence: bool) -> None:
    points = low_discrepancy_points(PRIORS, 512, 3) if sequence else random_points(PRIORS, 2000, np.random.default_rng(0))
    normal = stats.truncnorm(-0.5 / 0.4, 1.5 / 0.4, loc=0.5, scale=0.4)
    assert stats.kstest(points[:, 0] * 2, normal.cdf).pvalue > 0.01
    assert stats.kstest(points[:, 1], stats.beta(2, 5).cdf).pvalue > 0.01
    assert ((points >= 0) & (points <= 1)).all()


def test_the_sequence_covers_each_dimension_evenly() -> None:
    space = SearchSpace(Space(tuple(Parameter(f"p{n}", "double", 0, 1) for n in range(6))))
    points = low_discrepancy_points(space, 16, 5)
    assert all(len(set(np.floor(column * 16))) == 16 for column in points.T)
    assert np.array_equal(points[:7], low_discrepancy_points(space, 7, 5))
    assert not np.array_equal(points, low_discrepancy_points(space, 16, 6))


@pytest.mark.parametrize("limit", [1.2, 0.001])
def test_points_satisfy_the_constraints(limit: float) -> None:
    pair = tuple(Parameter(name, "double", 0, 1) for name in "abc")
    space = SearchSpace(Space(pair, constraints=(LinearConstraint({"a": 1, "b": 1, "c": 1}, limit, "less_than"),)))
    for points in (low_discrepancy_points(space, 20, 0), random_points(space, 20, np.random.default_rng(0))):
        assert points.shape == (20, 3) and len(np.unique(points, axis=0)) == 20
        assert all(space.contains(space.assignments(point)) for point in points)
