"""The study of a second metric: choices, shares and ratios, and all experiments end to end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ml.advisor.hardware import Hardware
from ml.lake import Lake
from ml.studies.multimetric import (
    ARMS,
    LIMITED,
    ONE,
    TWO,
    Experiment,
    Study,
    Thresholds,
    choose,
    run_study,
    summarise,
    write_study,
)
from ml.studies.wide_space import Observed
from tests.helpers.training_days import made_spec, write_days

MACHINE = Hardware("a processor", cores=2.0, memory=8 << 30)
LIMITS = Thresholds(auc=0.75, seconds=2.0)
TRIALS = (Observed(0.76, 4.0, {}), Observed(0.755, 1.5, {}), Observed(0.74, 0.5, {}), Observed(None, 0.0, {}))


def experiment(arm: str, seed: int, trials: tuple[Observed, ...] = TRIALS) -> Experiment:
    chosen = choose(arm, trials, LIMITS)
    labels = np.array([0, 1] * 50, np.float32)
    predictions = {"2026-01-03": (labels, np.linspace(0.1, 0.9, 100, dtype=np.float32))}
    return Experiment(arm, seed, LIMITS, trials, chosen, chosen, predictions if chosen else {})


def test_one_metric_chooses_the_best_and_two_the_fastest_that_is_good_enough() -> None:
    assert choose(ONE, TRIALS, LIMITS) == TRIALS[0]
    assert choose(TWO, TRIALS, LIMITS) == choose(LIMITED, TRIALS, LIMITS) == TRIALS[1]
    assert choose(LIMITED, TRIALS[2:], LIMITS) is None and choose(ONE, TRIALS[3:], LIMITS) is None


def test_shares_and_ratios_are_paired_by_seed() -> None:
    found = summarise([experiment(arm, seed) for seed in (0, 1) for arm in ARMS])["arms"]
    assert found[LIMITED]["share"] == 0.25, "one of four meets both thresholds; a failed trial counts"
    assert found[LIMITED]["speed_up"] == pytest.approx({"value": 4 / 1.5, "low": 4 / 1.5, "high": 4 / 1.5})
    assert found[LIMITED]["speed_up_of_fastest"]["value"] == pytest.approx(1.0)
    assert found[ONE]["speed_up_again"]["value"] == 1.0 and found[TWO]["auc_gain"]["value"] == 0.0


def test_a_seed_without_a_choice_has_no_ratio() -> None:
    found = summarise([experiment(ONE, 0), experiment(TWO, 0), experiment(LIMITED, 0, TRIALS[2:])])["arms"][LIMITED]
    assert found["speed_up"] is found["speed_up_again"] is found["auc_gain"] is found["again"] is None
    assert found["share"] == 0.0


@pytest.mark.slow
def test_all_experiments_run_through_the_service(lake: Lake, tmp_path: Path) -> None:
    spec, told = made_spec(), list[str]()
    days = tuple(write_days(lake, spec, 3, 320))
    experiments = run_study(Study(spec, days, lake, tmp_path / "tuning", observations=2, seeds=1), told.append, MACHINE)
    assert [each.arm for each in experiments] == list(ARMS)
    assert all(len(each.trials) == 2 for each in experiments)
    first, *others = [[trial.assignments for trial in each.trials] for each in experiments]
    assert all(other == first for other in others), "the first suggestions depend on the seed alone"
    found = write_study(tmp_path, experiments)
    assert json.loads((tmp_path / "summary.json").read_text()) == found and (tmp_path / "trials.png").stat().st_size > 1000


def test_too_few_days_are_refused(lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least three"):
        run_study(Study(made_spec(), ("2026-01-01",), lake, tmp_path), hardware=MACHINE)
