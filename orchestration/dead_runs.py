"""Reports runs whose process was killed as failed. Dagster itself keeps such runs as started."""

import os
import socket

import dagster as dg

from assets.owner import HOST, PID, RUN

UNFINISHED = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]


def is_orphaned(run: dg.DagsterRun) -> bool:
    """Return whether a run's process was on this machine and has exited."""
    tags = run.tags
    if tags.get(RUN) != run.run_id or tags.get(HOST) != socket.gethostname() or not tags.get(PID, "").isdigit():
        return False
    try:
        os.kill(int(tags[PID]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def fail_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Report each run whose process has exited as failed, and return their ids."""
    dead = [run for run in instance.get_runs(dg.RunsFilter(statuses=UNFINISHED)) if is_orphaned(run)]
    for run in dead:
        instance.report_run_failed(run, "the process of this run was killed; run the day again")
    return [run.run_id for run in dead]
