"""Rules of early stopping, for one and two optimized metrics and for thresholds."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ml.tuning.definition import Metric
from ml.tuning.runs.early_stop import MIN_RUNS, Progress, stopping_reasons

AUC, TIME = Metric("auc"), Metric("time", "minimize")


def run(auc: Sequence[float], time: Sequence[float] = (), final: dict[str, float] | None = None) -> Progress:
    times = time or [10.0 * step for step in range(1, len(auc) + 1)]
    return Progress([{"auc": a, "time": t} for a, t in zip(auc, times, strict=True)], final or {})


def reasons(metrics: Sequence[Metric], one: Progress, others: Sequence[Progress]) -> set[str]:
    return {name for name, stops in stopping_reasons(metrics, one, others).items() if stops}


RIVALS = [run([0.5 + step, 0.6 + step, 0.7 + step]) for step in (0.0, 0.01, 0.02, 0.03)]


@pytest.mark.parametrize(("auc", "stops"), [(0.61, True), (0.614, True), (0.615, False), (0.62, False)])
def test_a_run_below_the_median_at_the_same_checkpoint_stops(auc: float, stops: bool) -> None:
    assert reasons([AUC], run([0.7, auc]), RIVALS) == ({"median_rule"} if stops else set())


def test_a_minimized_metric_is_worse_above_the_median() -> None:
    rivals = [run([0.5], [time]) for time in (1.0, 2.0, 3.0, 4.0)]
    assert reasons([TIME], run([0.5], [2.6]), rivals) == {"median_rule"}
    assert reasons([TIME], run([0.5], [2.4]), rivals) == set()


def test_few_runs_or_shorter_runs_say_nothing() -> None:
    assert reasons([AUC], run([0.0]), RIVALS[: MIN_RUNS - 1]) == set()
    assert reasons([AUC], run([0.0] * 4), RIVALS) == set()
    assert reasons([AUC], Progress([{"loss": 1.0}]), RIVALS) == set()


def test_with_two_metrics_a_run_stops_only_if_both_are_worse() -> None:
    assert reasons([AUC, TIME], run([0.4], [11.0]), RIVALS) == {"median_rule"}
    assert reasons([AUC, TIME], run([0.4], [9.0]), RIVALS) == set()
    assert reasons([AUC, TIME], run([0.6], [11.0]), RIVALS) == set()


def test_stored_metrics_and_constraints_are_not_compared_with_the_median() -> None:
    others = [Metric("time", "minimize", "store"), Metric("auc", "maximize", "constraint", 0.1)]
    assert reasons(others, run([0.4], [99.0]), RIVALS) == set()


def test_a_run_that_cannot_reach_its_threshold_stops() -> None:
    limit = Metric("time", "minimize", "constraint", 50.0)
    rivals = [run([0.5], [10.0], {"auc": 0.7, "time": end}) for end in (40.0, 42.0, 44.0, 60.0)]
    assert reasons([AUC, limit], run([0.6], [12.0]), rivals) == set()  # 12 + 30 = 42 if all goes well
    assert reasons([AUC, limit], run([0.6], [25.0]), rivals) == {"threshold_rule"}  # at least 25 + 30 = 55


def test_a_threshold_of_a_maximized_metric_is_projected_with_the_best_gain() -> None:
    metrics = [Metric("auc", threshold=0.8), Metric("time", "minimize", threshold=100.0)]
    rivals = [run([0.7], [10.0], {"auc": 0.7 + gain, "time": 20.0}) for gain in (0.05, 0.06, 0.07, 0.1)]
    assert "threshold_rule" not in reasons(metrics, run([0.71]), rivals)
    assert "threshold_rule" in reasons(metrics, run([0.65]), rivals)


def test_without_completed_runs_a_metric_that_only_worsens_does_not_recover() -> None:
    limit = Metric("time", "minimize", "constraint", 25.0)
    assert reasons([AUC, limit], run([0.5, 0.6, 0.7], [10.0, 20.0, 30.0]), []) == {"threshold_rule"}
    assert reasons([AUC, limit], run([0.5, 0.6], [20.0, 30.0]), []) == set()
    assert reasons([AUC, limit], run([0.5, 0.6, 0.7], [40.0, 35.0, 30.0]), []) == set()
