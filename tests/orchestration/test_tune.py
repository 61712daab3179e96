"""`make tune`: trials on the days before a day, MLflow runs of them, and a day that is trained with the result."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from mlflow.tracking import MlflowClient
from rich.console import Console

from ml.catalog.load import load_dataset
from ml.lake import Lake
from orchestration.tune import cases_table, declared_window, main

DAY = "2026-01-04"


@pytest.mark.slow
def test_a_recipe_is_tuned_and_the_day_is_trained(home: Path) -> None:
    done = CliRunner().invoke(main, ["synthetic", "--day", DAY, "--budget", "3", "--parallel", "2", "--window", "3"])
    assert done.exit_code == 0, done.output
    assert "3 trials for 2026-01-04, 0 failed" in done.output
    lake = Lake.at(home)
    manifest = lake.manifest("tuning_results/dlrm", "synthetic", DAY)
    assert manifest["window"] == ["2026-01-01", "2026-01-02", "2026-01-03"] and manifest["trials"] == 3
    assert (manifest["scored"], manifest["judged"]) == (["2026-01-02"], ["2026-01-03"])
    assert " ".join(done.output.split()).count("is used from" if manifest["adopted"] else "is kept") == 1
    assert lake.has("tuned_models/dlrm", "synthetic", DAY)
    assert "studies/synthetic_advisor" in done.output
    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("synthetic")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = (run for run in runs if run.data.tags.get("evergreen.tuning") == manifest["experiment"])
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == 3
    assert all(run.data.metrics["auc"] and run.data.metrics["training_time"] > 0 for run in children)


def test_the_four_cases_are_shown_with_those_of_the_article() -> None:
    reached = {"original": {"cpu_seconds": 20.0}, "advised": None}
    summary = {"training": {"auc": 0.75, "reached": reached, "speed_up": None, "article": 5.4}}
    tuning = {
        "auc": 0.74,
        "speed_up": 8.5,
        "article": 5.2,
        "cases": {"wide": {"seconds_to_auc": 85.0}, "advised": {"seconds_to_auc": 10.0}},
    }
    console = Console(width=100)
    with console.capture() as shown:
        console.print(cases_table(summary))
        console.print(cases_table(summary | {"tuning": tuning}))
    lines = [" ".join(line.split()) for line in shown.get().splitlines()]
    assert lines.count("original DLRM 0.7500 20.0") == 2 and lines.count("advised DLRM 0.7500 5.4") == 2
    assert lines[-2:] == ["tuning the wide space 0.7400 85.0", "tuning the advised space 0.7400 10.0 8.5 5.2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["synthetic", "--model", "none"], "synthetic has no model 'none'; it has dlrm"),
        (["synthetic", "--day", "2031-01-01"], "is not a day of synthetic"),
        (["synthetic", "--day", "2026-01-03"], "at least 3 days before 2026-01-03, but there are 2"),
        (["nothing"], "no dataset 'nothing'"),
    ],
)
def test_what_cannot_be_tuned_is_named(home: Path, arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code != 0 and message in done.output


def test_the_window_of_the_edits_applies(home: Path) -> None:
    entry = home / "catalog" / "synthetic.yaml"
    assert declared_window(load_dataset(entry), "dlrm") == 5
    (home / "catalog" / "recipes" / "synthetic" / "dlrm.yaml").write_text("sigopt: {window_days: 7}")
    assert declared_window(load_dataset(entry), "dlrm") == 7
