"""Arithmetic of the advisor's study: times to equal AUC, speed-ups and shares."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ml.studies.advisor_report import Cases, figure, seconds_to, shares, summary
from ml.studies.timed_run import Point, Recorder, TimedRun
from ml.studies.wide_space import Observed


def run(name: str, aucs: Sequence[float], seconds: float) -> TimedRun:
    """A run with one evaluation every `seconds` of one core, which take twice as long."""
    points = (Point(100 * n, n * seconds, 2 * n * seconds, value) for n, value in enumerate(aucs, 1))
    return TimedRun(name, tuple(points), {"2026-01-02": aucs[0], "2026-01-03": aucs[-1]})


def trials(*found: tuple[float | None, float]) -> tuple[Observed, ...]:
    return tuple(Observed(auc, seconds, {}) for auc, seconds in found)


RUNS = {
    "original": run("original", [0.6, 0.71, 0.65, 0.7], 8.0),
    "our_trainer": run("ours", [0.7, 0.75], 4.0),
    "advised_model": run("model", [0.5, 0.7], 4.0),
    "advised": run("advised", [0.72, 0.76], 1.0),
}
TUNINGS = {
    "wide": trials((0.68, 10), (None, 0), (0.72, 20), (0.71, 30)),
    "advised": trials((0.71, 1), (0.72, 2), (0.75, 3)),
    "our_trainer": trials((0.6, 4), (0.7, 8)),
}


def test_times_are_those_to_the_auc_with_which_the_original_ends() -> None:
    found = summary(Cases(RUNS, {}, {1: 0.5}))["training"]
    assert found["auc"] == 0.7
    assert found["reached"]["original"]["rows"] == 200, "the original itself reaches it earlier"
    assert (found["speed_up"], found["speed_up_wall"], found["fewer_rows"]) == (16.0, 16.0, 2.0)
    # Trainer: 16 / 4 with the original's model, 8 / 1 with the advised one.
    assert found["shares"]["trainer"] == pytest.approx((4 * 8) ** 0.5)
    assert found["shares"]["trainer"] * found["shares"]["model"] == pytest.approx(16)
    assert found["shares_of_whole_runs"]["trainer"] == pytest.approx((32 / 8 * 8 / 2) ** 0.5)


def test_a_run_that_does_not_reach_the_auc_has_no_time() -> None:
    found = summary(Cases({**RUNS, "advised_model": run("model", [0.5, 0.6], 4.0)}, {}, {}))["training"]
    assert found["reached"]["advised_model"] is None and found["shares"] is None and found["speed_up"] == 16.0
    worse = summary(Cases({**RUNS, "advised": run("advised", [0.5, 0.69], 1.0)}, {}, {}))["training"]
    assert worse["speed_up"] is None and worse["speed_up_wall"] is None


def test_tunings_are_compared_by_total_and_by_time_to_the_best_auc_of_the_wide_space() -> None:
    found = summary(Cases(RUNS, TUNINGS, {}))["tuning"]
    assert found["auc"] == 0.72 and found["speed_up"] == 30 / 3 and found["speed_up_of_all_trials"] == 60 / 6
    assert found["factors_of_all_trials"] == {"trainer": 60 / 12, "space": 12 / 6}
    assert found["factors"] == {"trainer": None, "space": None}, "ours does not reach the AUC over the wide space"
    assert found["cases"]["wide"] == {"best_auc": 0.72, "seconds": 60, "seconds_to_auc": 30, "trials": 4, "failed": 1}
    assert found["cases"]["our_trainer"]["seconds_to_auc"] is None


def test_a_tuning_that_stays_below_has_no_speed_up() -> None:
    found = summary(Cases(RUNS, TUNINGS | {"advised": trials((0.7, 1))}, {}))["tuning"]
    assert found["speed_up"] is None and found["speed_up_of_all_trials"] == 60
    failed = summary(Cases(RUNS, TUNINGS | {"wide": trials((None, 0))}, {}))["tuning"]
    assert failed["auc"] is None and failed["speed_up"] is None


def test_shares_without_a_speed_up_are_undefined() -> None:
    assert shares(1.0, 2.0, 2.0, 1.0) is None and shares(None, 1.0, 1.0, 1.0) is None
    assert seconds_to(trials((None, 3), (0.5, 4)), 0.5) == 7


def test_the_figure_is_a_png() -> None:
    assert figure(Cases(RUNS, {}, {})).startswith(b"\x89PNG")


def test_the_recorder_evaluates_evenly_and_at_the_end_of_a_pass() -> None:
    seen = iter((0.5, 0.6, 0.7, 0.8, 0.9))
    recorder = Recorder("run", lambda: next(seen), per_day=2)
    for steps in (5, 3):
        with recorder.watch.running():
            for index in range(steps):
                recorder.after_step(index, steps, rows=10)
    done = recorder.run()
    assert [(point.rows, point.auc) for point in done.curve] == [(30, 0.5), (50, 0.6), (70, 0.7), (80, 0.8)]
    assert done.reached(0.65) == done.curve[2] and done.reached(0.95) is None
