"""The study of several processes: sharded tables give one process's scores, and comparisons are paired by seed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ml.lake import Lake
from ml.recipes.recipe import recipe_of
from ml.studies.independent_embeddings import ONE, CaseRun, run_study, summarise, write_study
from ml.training.replay import replay
from tests.helpers.training_days import made_spec, write_days


@pytest.mark.slow
def test_sharded_tables_predict_like_one_process_and_independent_ones_do_not(lake: Lake, tmp_path: Path) -> None:
    spec = made_spec()
    days = write_days(lake, spec, 3, 320)
    runs = run_study(spec, days, lake, seeds=1, processes=(2,), batch_size=64)
    alone, sharded, independent = runs
    assert [run.case for run in runs] == [ONE, "2 processes, sharded", "2 processes, independent"]
    for day in days[1:]:
        labels, probabilities = alone.predictions[day]
        assert len(labels) == 320
        np.testing.assert_array_equal(sharded.predictions[day][0], labels)
        np.testing.assert_allclose(sharded.predictions[day][1], probabilities, atol=1e-4)
        assert not np.allclose(independent.predictions[day][1], probabilities, atol=1e-4)
    found = write_study(tmp_path, runs)
    assert json.loads((tmp_path / "summary.json").read_text()) == found and (tmp_path / "speed.png").stat().st_size > 1000
    assert all(run.cpu_seconds > 0 and run.samples_per_second > 0 for run in runs)
    assert found[ONE]["auc_gain"]["value"] == 0.0 and found[ONE]["speed_up"]["value"] == 1.0


def test_too_few_days_are_refused(lake: Lake) -> None:
    with pytest.raises(ValueError, match="at least three"):
        run_study(made_spec(), ["2026-01-01", "2026-01-02"], lake)


def test_speeds_are_compared_seed_by_seed() -> None:
    labels = np.array([0, 1] * 50, np.float32)
    at = {"2026-01-02": (labels, np.linspace(0.1, 0.9, 100, dtype=np.float32))}
    speeds = {ONE: (100.0, 10.0), "2 processes, sharded": (80.0, 8.0)}
    runs = [CaseRun(case, seed, 0.5, 0.7, of[seed], 1 / of[seed], at) for seed in (0, 1) for case, of in speeds.items()]
    found = summarise(runs)["2 processes, sharded"]
    assert found["speed_up"] == pytest.approx({"value": 0.8, "low": 0.8, "high": 0.8})
    assert found["cpu_ratio"] == pytest.approx({"value": 1.25, "low": 1.25, "high": 1.25})
    assert found["auc_gain"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_one_process_is_a_replay(lake: Lake) -> None:
    spec = made_spec()
    recipe = recipe_of(spec, "dlrm")
    days = write_days(lake, spec, 3, 300)
    run = run_study(spec, days, lake, seeds=1, processes=(), batch_size=recipe.batch_size)[0]
    replayed = replay(spec, days, lake, recipe, train_last=False, keep_predictions=True).days
    for day in replayed[1:]:
        assert day.predictions is not None
        np.testing.assert_array_equal(run.predictions[day.day][1], day.predictions[1])
