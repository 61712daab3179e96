"""Calls of one function in several processes: starting them, connecting them, and collecting their errors.

If a process fails, the others are terminated, and the error has the traceback of the process that failed first.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
import tempfile
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import ProcessExitedException, start_processes
from upath import UPath

from ml.distributed.launchers import Processes
from ml.distributed.process_group import Ranks

R = TypeVar("R")

_RESULT, _MEETING = "result", "EVERGREEN_MEETING"
_LOOPBACK = {"linux": "lo", "darwin": "lo0"}
_SECONDS_TO_STOP = 30.0


class RankFailed(RuntimeError):
    """One of several processes failed.

    Attributes:
        kinds: Names of the error's class and its base classes, most specific first; empty if the process reported no error.
    """

    def __init__(self, message: str, kinds: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.kinds = tuple(kinds)


def launch(function: Callable[..., R], *args: object, processes: Processes, scratch: UPath) -> R:
    """Call `function(*args)` in several processes.

    Args:
        function: A function of a module that the processes can import. It enters `process_group` to reach the others.
        *args: Picklable arguments.
        processes: Number of processes, and their launcher.
        scratch: A folder that all processes can write to.

    Returns:
        The result of the call in the first process.

    Raises:
        RankFailed: One of the processes failed.
        ValueError: The launcher is Spark, and there is no session.
    """
    if processes.launcher != "local" and processes.spark is None:
        raise ValueError(f"launcher {processes.launcher} needs Spark: set EVERGREEN_SPARK_MASTER, or EVERGREEN_LAUNCHER=local")
    failures = scratch / f".launched-{uuid.uuid4().hex}"
    try:
        if processes.launcher == "local":
            return _launch_here(processes.count, function, str(failures), *args)
        from pyspark.ml.torch.distributor import TorchDistributor

        on_driver = processes.launcher == "driver"
        distributor = TorchDistributor(processes.count, local_mode=on_driver, use_gpu=torch.cuda.is_available())
        return distributor.run(_record_failure, function, str(failures), *args)  # type: ignore[return-value]
    except Exception as error:
        raise _first_failure(error, failures) from error
    finally:
        if failures.exists():
            failures.fs.rm(failures.path, recursive=True)


@contextmanager
def process_group() -> Iterator[Ranks]:
    """Connect this process to the others that `launch` or torchrun started, with NCCL between GPUs and Gloo between CPUs.

    Yields:
        The ranks, as torchrun's environment variables define them.
    """
    if os.environ["LOCAL_WORLD_SIZE"] == os.environ["WORLD_SIZE"] and sys.platform in _LOOPBACK:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", _LOOPBACK[sys.platform])
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
        init_method=os.environ.get(_MEETING, "env://"),
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
    )
    yield Ranks.of()
    dist.destroy_process_group()  # not after an error: the other ranks would fail before this error is recorded


def _launch_here(count: int, function: Callable[..., R], failures: str, *args: object) -> R:
    """Start child processes that connect through a file, so that no port is open beyond the loopback interface."""
    with tempfile.TemporaryDirectory() as folder:
        given = (count, folder, function, failures, *args)
        context = start_processes(_run_rank, given, nprocs=count, join=False, start_method="spawn")
        assert context is not None
        try:
            while not context.join():
                pass
        except BaseException:
            _end([process for process in context.processes if process is not None])
            raise
        # Only the first child process writes this file: other users have no access to the folder, whose mode is 0700.
        return pickle.loads((Path(folder) / _RESULT).read_bytes())  # noqa: S301


def _end(processes: Sequence[BaseProcess]) -> None:
    """Terminate the running processes, which lets them write a checkpoint; kill them after `_SECONDS_TO_STOP`."""
    for process in processes:
        process.terminate()
    until = time.monotonic() + _SECONDS_TO_STOP
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))
        process.kill()


def _run_rank(rank: int, count: int, folder: str, function: Callable[..., R], failures: str, *args: object) -> None:
    """Run one child process of `_launch_here`, with torchrun's variables and a file to connect through."""
    variables = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "RANK": rank, "LOCAL_RANK": rank}
    os.environ |= {name: str(value) for name, value in variables.items()} | {_MEETING: f"file://{folder}/meeting"}
    result = _record_failure(function, failures, *args)
    if rank == 0:
        (Path(folder) / _RESULT).write_bytes(pickle.dumps(result))


def _record_failure(function: Callable[..., R], failures: str, *args: object) -> R:
    """Call the function and record its error, because launchers report errors of a process in part or not at all."""
    try:
        return function(*args)
    except BaseException as error:
        kinds = [cls.__name__ for cls in type(error).__mro__]
        rank = int(os.environ["RANK"])
        note = {"time": time.time(), "rank": rank, "traceback": traceback.format_exc(), "kinds": kinds}
        folder = UPath(failures)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{rank}.json").write_text(json.dumps(note))
        if isinstance(error, KeyboardInterrupt):
            raise SystemExit(128 + signal.SIGINT) from error  # launchers treat a KeyboardInterrupt as a normal exit
        raise


def _first_failure(error: Exception, failures: UPath) -> RankFailed:
    """Return the error of the rank that failed first. The others fail because it is missing."""
    notes = {}
    for path in failures.glob("*.json") if failures.exists() else ():
        with suppress(ValueError):  # the process ended while it wrote
            note = json.loads(path.read_text())
            notes[note["rank"]] = note
    if isinstance(error, ProcessExitedException) and error.error_index not in notes:
        how = error.signal_name or f"exit code {error.exit_code}"
        return RankFailed(
            f"rank {error.error_index} exited without reporting an error: {how}; SIGKILL often means that memory ran out"
        )
    if not notes:
        return RankFailed(str(error))
    first = min(notes.values(), key=lambda note: note["time"])
    return RankFailed(f"rank {first['rank']} failed:\n{first['traceback']}", first["kinds"])
