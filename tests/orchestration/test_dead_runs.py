"""A run whose process has exited is reported as failed. Runs of live processes and of other machines are not."""

import subprocess
import sys

import dagster as dg
import pytest

from assets.owner import HOST, PID, RUN, owner_tags
from orchestration.dead_runs import fail_dead_runs


@pytest.fixture
def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def started(instance: dg.DagsterInstance, tags: dict[str, str]) -> str:
    @dg.job
    def nothing(): ...

    run = instance.create_run_for_job(nothing, tags=tags, status=dg.DagsterRunStatus.STARTED)
    if tags.get(RUN) == "":
        instance.add_run_tags(run.run_id, {RUN: run.run_id})
    return run.run_id


def test_only_runs_of_dead_processes_here_are_failed(dead_pid: int):
    with dg.DagsterInstance.ephemeral() as instance:
        dead = started(instance, owner_tags("") | {PID: str(dead_pid)})
        alive = started(instance, owner_tags(""))
        elsewhere = started(instance, owner_tags("") | {PID: str(dead_pid), HOST: "another-machine"})
        retry = started(instance, owner_tags(dead) | {PID: str(dead_pid)})  # with the tags of its parent
        unknown = started(instance, {})
        assert fail_dead_runs(instance) == [dead]
        statuses = {run_id: instance.get_run_by_id(run_id).status for run_id in (dead, alive, elsewhere, retry, unknown)}
        assert statuses.pop(dead) == dg.DagsterRunStatus.FAILURE
        assert set(statuses.values()) == {dg.DagsterRunStatus.STARTED}
