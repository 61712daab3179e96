"""A trial in a process of its own: its result survives, its failures are explained, and it can be stopped."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import stat
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from ml.lake import Lake
from ml.stages import MDS_DATASETS
from ml.trials.process import RESULT, SCORES, TRIAL, TrialFailed, in_process
from ml.trials.trial import Trial, run_trial
from tests.helpers.training_days import made_spec, small_recipe, write_days

pytestmark = pytest.mark.slow


@pytest.fixture
def trial(lake: Lake) -> Trial:
    days = tuple(write_days(lake, made_spec(), 3, 320))
    return Trial(made_spec(), small_recipe(), days, days[-1:], lake)


def processes_of(folder: Path) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_text()
        except OSError:
            continue
        if "ml.trials.process" in command and str(folder) in command:
            found.append(int(process.name))
    return found


def test_a_process_has_the_result_of_the_trial_and_keeps_it(trial: Trial, tmp_path: Path) -> None:
    result, here = in_process(trial, tmp_path / "one"), run_trial(trial)
    assert asdict(result) | {"training_time": 0} == asdict(here) | {"training_time": 0}
    assert [json.loads(line)["day"] for line in (tmp_path / "one" / SCORES).read_text().splitlines()] == list(trial.scored)
    written = (tmp_path / "one" / RESULT).stat().st_mtime_ns
    assert in_process(trial, tmp_path / "one") == result
    assert (tmp_path / "one" / RESULT).stat().st_mtime_ns == written, "it was not trained again"
    assert stat.S_IMODE((tmp_path / "one" / TRIAL).stat().st_mode) == 0o600
    other = replace(trial, recipe=small_recipe(seed=7))
    assert in_process(other, tmp_path / "one").auc != result.auc, "another trial does not get the result"


def test_a_process_stops_at_a_checkpoint_and_keeps_that_result(trial: Trial, tmp_path: Path) -> None:
    seen: list[int] = []

    def on_checkpoint(number: int, metrics: Mapping[str, float]) -> str:
        seen.append(number)
        return "bad" if number == 3 else ""

    watched = replace(trial, early_stopping=True)
    result = in_process(watched, tmp_path / "stopped", on_checkpoint=on_checkpoint)
    assert seen == [1, 2, 3] and result.stopped == "bad at checkpoint 3 of 7" and result.auc is None
    assert in_process(watched, tmp_path / "stopped", on_checkpoint=on_checkpoint) == result and len(seen) == 3
    whole = in_process(watched, tmp_path / "whole")
    assert whole.auc == run_trial(trial).auc and not whole.stopped


def test_a_process_that_waits_for_an_answer_ends_with_an_error_of_its_caller(trial: Trial, tmp_path: Path) -> None:
    def on_checkpoint(number: int, metrics: Mapping[str, float]) -> str:
        assert len(processes_of(tmp_path)) == 1
        raise KeyError

    with pytest.raises(KeyError):
        in_process(replace(trial, early_stopping=True), tmp_path / "error", on_checkpoint=on_checkpoint)
    assert processes_of(tmp_path) == []


def test_a_process_of_a_caller_with_many_open_files_is_watched(trial: Trial, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(4096, hard)), hard))
    try:
        with ExitStack() as stack:
            for _ in range(1100):
                stack.enter_context(Path(os.devnull).open())
            assert in_process(trial, tmp_path / "many").auc is not None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_failure_has_the_reason(trial: Trial, tmp_path: Path) -> None:
    with pytest.raises(TrialFailed, match=r"exit status 1.*2026-01-02|exit status 1.*not in the lake"):
        in_process(replace(trial, lake=Lake.at(tmp_path / "empty")), tmp_path / "two")


def test_a_result_from_other_data_is_not_used(trial: Trial, tmp_path: Path) -> None:
    here = replace(trial, data={day: trial.lake.digest(MDS_DATASETS, trial.spec.name, day) for day in trial.days})
    in_process(here, tmp_path / "data")
    write_days(trial.lake, trial.spec, 1, 100)
    with pytest.raises(TrialFailed, match="has changed since the tuning started"):
        in_process(replace(here, data={day: "other" for day in here.days}), tmp_path / "data")


def test_a_killed_process_is_a_failure_and_leaves_no_result(trial: Trial, tmp_path: Path) -> None:
    def kill() -> None:
        for process in processes_of(tmp_path):
            os.kill(process, signal.SIGKILL)

    with pytest.raises(TrialFailed, match="signal SIGKILL"):
        in_process(trial, tmp_path / "three", beat=kill, seconds=0.1)
    assert not (tmp_path / "three" / RESULT).exists()


def test_a_trial_ends_with_the_process_that_started_it(lake: Lake, tmp_path: Path) -> None:
    days = tuple(write_days(lake, made_spec(), 5, 20_000))
    trial = Trial(made_spec(), small_recipe(batch_size=4), days, days[-1:], lake)
    worker = multiprocessing.get_context("spawn").Process(target=in_process, args=(trial, tmp_path / "orphan"))
    worker.start()
    while not (tmp_path / "orphan" / SCORES).exists():
        assert worker.is_alive()
        time.sleep(0.1)
    worker.kill()
    worker.join()
    for _ in range(100):
        if not processes_of(tmp_path / "orphan"):
            break
        time.sleep(0.1)
    assert not processes_of(tmp_path / "orphan") and not (tmp_path / "orphan" / RESULT).exists()
