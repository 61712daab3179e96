"""MLflow runs of a tuning: one child run per trial, also after a kill between two trials or in the middle of one."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from ml.lake import Lake
from ml.recipes.search import Search
from ml.tracking.run import Tracker
from ml.trials.connection import Service
from ml.trials.experiment import Tried
from ml.trials.tracking import TrialTracker
from ml.trials.tune import Tuning
from tests.helpers.training_days import made_spec, small_recipe

TRIALS = [
    Tried({"lr": 0.1}, {"auc": 0.7}, metadata={"evergreen_suggestion": "1"}),
    Tried({"lr": 0.2}, {}, failed=True, metadata={"evergreen_suggestion": "2", "log": "diverged"}),
    Tried({"lr": 0.3}, {"auc": 0.8}, metadata={"evergreen_suggestion": "3"}),
    Tried({"lr": 0.4}, {}, failed=True, stopped=True, metadata={"evergreen_suggestion": "4", "log": "median_rule"}),
]


def tracker(lake: Lake, home: Path) -> TrialTracker:
    tuning = Tuning(made_spec(), "dlrm", "2026-01-04", small_recipe(), Search(), lake, Service("none"), home / "trials")
    return TrialTracker(home, tuning, {"team": "ads"})


def children(home: Path) -> list[Run]:
    client = Tracker(home).client()
    (experiment,) = [found for found in client.search_experiments() if found.name != "Default"]
    runs = client.search_runs([experiment.experiment_id])
    assert sum("evergreen.tuning" in run.data.tags for run in runs) == 1
    return sorted(
        (run for run in runs if "evergreen.tuning" not in run.data.tags), key=lambda run: run.data.tags["evergreen.suggestion"]
    )


@pytest.mark.slow
def test_a_trial_is_logged_once_and_what_a_killed_tuning_lost_is_added(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker(lake, tmp_path).log("7", TRIALS[0])
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):

        def stop(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        killed.setattr(MlflowClient, "log_batch", stop)
        tracker(lake, tmp_path).log("7", TRIALS[1])
    resumed = tracker(lake, tmp_path)
    for trial in TRIALS:
        resumed.log("7", trial)
    found = children(tmp_path)
    assert [run.data.tags["evergreen.suggestion"] for run in found] == ["1", "2", "3", "4"]
    assert [run.info.status for run in found] == ["FINISHED", "FAILED", "FINISHED", "KILLED"]
    assert [run.data.metrics for run in found] == [{"auc": 0.7}, {}, {"auc": 0.8}, {}]
    assert found[1].data.tags["evergreen.log"] == "diverged"
    resumed.log("7", Tried({"lr": 0.4}, {"auc": 0.9}, metadata={"evergreen_suggestion": "1"}))
    assert len(children(tmp_path)) == 5, "a suggestion of a service that was set up again is another one"
    assert len({run.data.tags["mlflow.parentRunId"] for run in found}) == 1
