"""Reasons to stop."""

from __future__ import annotations

from ml.tuning.definition import Metric, Observation, Parameter, Space, Study
from ml.tuning.engine.stagnation import stopping_reasons

AUC, SECONDS = Metric("auc"), Metric("seconds", "minimize")


def study(metrics: tuple[Metric, ...], rows: list[tuple[float, float]], budget: int | None = None) -> Study:
    return Study(Space(()), metrics, tuple(Observation({}, {"auc": a, "seconds": s}) for a, s in rows), budget=budget)


def test_a_spent_budget_is_a_reason() -> None:
    assert stopping_reasons(study((AUC,), [(0.5, 1), (0.6, 1)], 2)) == ["observation_budget_reached"]
    assert stopping_reasons(study((AUC,), [(0.5, 1), (0.6, 1)], 3)) == []


def test_results_that_do_not_improve_stagnate() -> None:
    rising = [(0.5 + n / 100, 1.0) for n in range(12)]
    assert stopping_reasons(study((AUC,), rising)) == []
    assert stopping_reasons(study((AUC,), rising[::-1])) == ["possible_stagnation"]
    assert stopping_reasons(study((AUC,), rising[8::-1])) == []  # too few results


def test_more_parameters_need_more_results_without_progress() -> None:
    space = Space(tuple(Parameter(str(n), "double", low=0, high=1) for n in range(4)))
    results = [Observation({}, {"auc": value}) for value in (0.5, 0.6, *[0.6] * 18)]
    assert stopping_reasons(Study(space, (AUC,), tuple(results))) == []
    assert stopping_reasons(Study(space, (AUC,), (results[0], results[1], *results))) == ["possible_stagnation"]


def test_two_metrics_stagnate_together() -> None:
    rising, still = [(0.5 + n / 100, 10.0 + n) for n in range(12)], [(0.6, 10.0)] * 12
    assert stopping_reasons(study((AUC, SECONDS), rising)) == []
    assert stopping_reasons(study((AUC, SECONDS), still)) == ["possible_stagnation"]


def test_a_study_without_feasible_or_optimized_results_does_not_stagnate() -> None:
    limit = Metric("seconds", "minimize", "constraint", 0.0)
    assert stopping_reasons(study((AUC, limit), [(0.5, 1.0)] * 12)) == []
    assert stopping_reasons(study((limit,), [(0.5, -1.0)] * 12)) == []
