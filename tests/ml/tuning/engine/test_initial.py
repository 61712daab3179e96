"""The first suggestions of a study."""

from __future__ import annotations

import pytest

from ml.tuning.definition import Metric, Observation, Parameter, Space, Study
from ml.tuning.engine.initial import initial_count, is_initial


def study(dimensions: int, budget: int | None, bandwidth: int = 1, known: int = 0) -> Study:
    space = Space(tuple(Parameter(f"p{n}", "double", 0, 1) for n in range(dimensions)))
    return Study(space, (Metric("auc"),), (Observation({}, {"auc": 1.0}),) * known, budget=budget, bandwidth=bandwidth)


@pytest.mark.parametrize(
    ("dimensions", "budget", "bandwidth", "wanted"),
    [(8, None, 1, 16), (1, None, 1, 6), (8, None, 4, 19), (8, 40, 1, 13), (2, 40, 1, 6), (8, 5, 1, 2), (8, 3, 4, 2)],
)
def test_small_budgets_keep_most_trials_for_the_model(dimensions: int, budget: int | None, bandwidth: int, wanted: int) -> None:
    assert initial_count(study(dimensions, budget, bandwidth)) == wanted


def test_results_of_earlier_experiments_replace_initial_points() -> None:
    assert is_initial(study(3, 40, known=5))
    assert not is_initial(study(3, 40, known=6))
