"""Feasibility, the Pareto front, hypervolume and the knee."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.tuning.definition import Metric, Observation
from ml.tuning.engine.front import feasible, front, hypervolume, knee

AUC, SECONDS = Metric("auc", threshold=0.5), Metric("seconds", "minimize")
MEMORY = Metric("memory", "minimize", "constraint", 10.0)


def results(*rows: tuple[float, ...]) -> list[Observation]:
    return [Observation({}, dict(zip(("auc", "seconds", "memory"), row, strict=False))) for row in rows]


@pytest.mark.parametrize(
    ("values", "meets"),
    [((0.5, 9, 10), True), ((0.49, 9, 10), False), ((0.6, 9, 10.1), False), ((0.6, math.nan, 1), False), ((0.6, 9), False)],
)
def test_feasible_results_meet_all_thresholds(values: tuple[float, ...], meets: bool) -> None:
    assert feasible([AUC, SECONDS, MEMORY], results(values)[0]) == meets


def test_failed_results_are_not_feasible() -> None:
    assert not feasible([SECONDS], Observation({}, {"seconds": 1.0}, failed=True))


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=20))
def test_the_front_is_all_that_nothing_dominates(rows: list[tuple[int, int]]) -> None:
    chosen = front([AUC, SECONDS], results(*((a / 10, s) for a, s in rows)))
    kept = {(a, s) for a, s in rows if a >= 5}
    best = {(a, s) for a, s in kept if not any(b >= a and t <= s and (b, t) != (a, s) for b, t in kept)}
    assert {rows[n] for n in chosen} == best and len(chosen) == len(best)
    assert [rows[n][0] for n in chosen] == sorted((rows[n][0] for n in chosen), reverse=True)


def test_one_metric_has_one_best_result_and_none_has_all_feasible_ones() -> None:
    tried = results((0.6, 3, 1), (0.9, 1, 1), (0.9, 2, 1), (1.0, 1, 99))
    assert front([Metric("auc"), MEMORY], tried) == [1]
    assert front([MEMORY], tried) == [0, 1, 2]
    assert front([Metric("auc"), MEMORY], []) == []


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=8))
def test_hypervolume_is_the_area_that_is_dominated(points: list[tuple[int, int]]) -> None:
    cells = {(x, y) for x in range(5) for y in range(5) if any(a <= x and b <= y for a, b in points)}
    assert hypervolume(np.array(points, dtype=float).reshape(-1, 2), (5.0, 5.0)) == len(cells)


def test_the_knee_is_the_best_compromise() -> None:
    tried = results((0.6, 1), (0.9, 2), (0.95, 9), (0.8, 5))
    assert knee([AUC, SECONDS], tried) == 1
    assert knee([Metric("auc")], tried) == 2
    assert knee([MEMORY], results((0.6, 1, 1))) is None
    assert knee([AUC, SECONDS], results((0.1, 1))) is None
