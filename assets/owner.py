"""Which process executes a run. Dagster does not know, and counts a run whose process was killed as started for ever."""

import os
import socket

import dagster as dg

# A retry inherits its parent's tags, so they name the run that they were meant for.
RUN, PID, HOST = "evergreen/run", "evergreen/pid", "evergreen/host"


def owner_tags(run_id: str) -> dict[str, str]:
    """Tags of a run that this process executes, so that others can tell when it is gone."""
    return {RUN: run_id, PID: str(os.getpid()), HOST: socket.gethostname()}


def own_run(context: dg.AssetExecutionContext) -> None:
    """Tag the run of a step with the process that executes it."""
    tags = owner_tags(context.run_id)
    if context.instance.has_run(context.run_id) and not tags.items() <= context.run.tags.items():
        context.instance.add_run_tags(context.run_id, tags)
