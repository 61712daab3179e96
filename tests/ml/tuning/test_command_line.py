"""The command line of the sigopt client, as processes of its own, against a server."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ml.tuning.database import Database
from ml.tuning.service import TuningService
from tests.helpers.tuning import sqlite
from tests.helpers.tuning_http import TOKEN, connect_http, served

pytestmark = pytest.mark.slow

TRAIN = """
import sigopt
sigopt.params.setdefaults(lr=0.5, layers=2)
sigopt.log_metadata("layers", sigopt.params.layers)
sigopt.log_checkpoint({"auc": sigopt.params.lr / 2})
sigopt.log_metric("auc", sigopt.params.lr)
print("trained")
"""
EXPERIMENT = """
name: DLRM
metrics: [{name: auc, objective: maximize, strategy: optimize}]
parameters:
  - {name: lr, type: double, bounds: {min: 0.001, max: 1.0}, transformation: log}
  - {name: layers, type: int, bounds: {min: 1, max: 4}}
parallel_bandwidth: 2
budget: 4
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(TuningService(Database(sqlite(tmp_path_factory.mktemp("tuning"))))) as url:
        yield url


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train.py").write_text(TRAIN)
    (tmp_path / "experiment.yml").write_text(EXPERIMENT)
    return tmp_path


def start(url: str, folder: Path, project: str, *arguments: str) -> subprocess.Popen[str]:
    env = {
        **os.environ,
        "SIGOPT_API_URL": url,
        "SIGOPT_API_TOKEN": TOKEN,
        "SIGOPT_PROJECT": project,
        "SIGOPT_HOME": str(folder),
    }
    command = [sys.executable, "-W", "ignore", "-m", "sigopt.cli", *arguments]
    return subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run(url: str, folder: Path, project: str, *arguments: str) -> str:
    process = start(url, folder, project, *arguments)
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    return output


def test_the_command_line(url: str, folder: Path) -> None:
    client = connect_http(url)
    assert "Project 'recsys' created" in run(url, folder, "recsys", "create", "project")
    assert start(url, folder, "recsys", "create", "project").wait(60) != 0  # it exists already

    assert "trained" in run(url, folder, "recsys", "run", "--", sys.executable, "train.py")
    (single,) = client.clients(1).projects("recsys").training_runs().fetch().iterate_pages()
    assert (single.state, single.values["auc"].value, single.checkpoint_count) == ("completed", 0.5, 1)
    assert dict(single.assignments) == {"lr": 0.5, "layers": 2}

    run(
        url, folder, "recsys", "optimize", "-e", "experiment.yml", "--source-file", "train.py", "--", sys.executable, "train.py"
    )
    (optimized,) = client.clients(1).projects("recsys").aiexperiments().fetch().iterate_pages()
    assert (optimized.progress.finished_run_count, optimized.progress.remaining_budget) == (4, 0)
    runs = [one for one in client.clients(1).projects("recsys").training_runs().fetch().iterate_pages() if one.experiment]
    assert all(one.values["auc"].value == one.assignments["lr"] and one.source_code.content == TRAIN for one in runs)
    best = max(runs, key=lambda one: one.values["auc"].value)
    assert [one.id for one in client.aiexperiments(optimized.id).best_training_runs().fetch().iterate_pages()] == [best.id]

    assert "start-worker" in run(url, folder, "recsys", "create", "experiment", "-e", "experiment.yml")
    made = max(client.clients(1).projects("recsys").aiexperiments().fetch().iterate_pages(), key=lambda one: int(one.id))
    workers = [start(url, folder, "recsys", "start-worker", made.id, sys.executable, "train.py") for _ in range(2)]
    outputs = [worker.communicate(timeout=400)[0] for worker in workers]
    progress = client.aiexperiments(made.id).fetch().progress
    assert (progress.finished_run_count, progress.active_run_count, progress.remaining_budget) == (4, 0, 0), outputs

    run(url, folder, "recsys", "archive", "experiment", made.id)
    assert client.aiexperiments(made.id).fetch().state == "deleted"
    run(url, folder, "recsys", "unarchive", "experiment", made.id)
    run(url, folder, "recsys", "archive", "run", single.id)
    assert client.training_runs(single.id).fetch().deleted
    run(url, folder, "recsys", "unarchive", "run", single.id)


def test_a_command_that_fails_and_a_project_that_is_missing(url: str, folder: Path) -> None:
    process = start(url, folder, "missing", "run", "--", "true")
    assert "does not exist" in process.communicate(timeout=400)[0] and process.returncode != 0
    run(url, folder, "failing", "create", "project")
    (folder / "experiment.yml").write_text(EXPERIMENT.replace("budget: 4", "budget: 1"))
    output = run(url, folder, "failing", "optimize", "-e", "experiment.yml", "--", "false")
    assert "non-zero" in output
    (made,) = connect_http(url).clients(1).projects("failing").aiexperiments().fetch().iterate_pages()
    (observed,) = connect_http(url).experiments(made.id).observations().fetch().iterate_pages()
    assert observed.failed  # the metric is missing
