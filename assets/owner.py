"""Tags that name the process which executes a run. Dagster keeps a run whose process was killed as started indefinitely."""

import os
import socket

import dagster as dg

# A retry inherits the tags of its parent, so the tags also name their run.
RUN, PID, HOST = "evergreen/run", "evergreen/pid", "evergreen/host"


def owner_tags(run_id: str) -> dict[str, str]:
    """Return tags of a run that this process executes, by which other processes detect that it has exited."""
    return {RUN: run_id, PID: str(os.getpid()), HOST: socket.gethostname()}


def own_run(context: dg.AssetExecutionContext) -> None:
    """Tag the run of a step with the process that executes it."""
    tags = owner_tags(context.run_id)
    if context.instance.has_run(context.run_id) and not tags.items() <= context.run.tags.items():
        context.instance.add_run_tags(context.run_id, tags)
