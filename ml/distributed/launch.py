"""Training a day on several processes: who starts them, and what becomes of their errors.

    torchrun --nproc-per-node 2 -m ml.distributed.launch criteo 2014-01-02

does by hand what `train_day_on` does for the assets. Each process makes the same call of `train_day`; if one fails, the others
are ended, and its traceback is what is told.
"""

from __future__ import annotations

import json
import logging
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
from typing import TYPE_CHECKING, TypeVar

import click
import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import record
from torch.multiprocessing.spawn import ProcessExitedException, start_processes
from upath import UPath

from ml.catalog.load import CATALOG, load_catalog
from ml.catalog.spec import DatasetSpec
from ml.distributed.launchers import Launcher
from ml.distributed.process_group import Ranks
from ml.lake import Lake
from ml.training.day import TrainedDay, train_day

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from ml.tracking.run import Tracker

R = TypeVar("R")

_RESULT, _MEETING = "result", "EVERGREEN_MEETING"
_LOOPBACK = {"linux": "lo", "darwin": "lo0"}
_SECONDS_TO_STOP = 30.0


class RankFailed(RuntimeError):
    """One of several processes failed; the message has its traceback. kinds: names of its error's classes, if it told them."""

    def __init__(self, message: str, kinds: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.kinds = tuple(kinds)


def train_day_on(
    processes: int,
    spec: DatasetSpec,
    day: str,
    lake: Lake,
    model: str | None = None,
    *,
    spark: SparkSession | None = None,
    launcher: Launcher = "local",
    tracker: Tracker | None = None,
    cache: str | None = None,
    cache_limit: str | None = None,
) -> TrainedDay:
    """`train_day`, by that many processes, of this machine or of Spark's. One is this process itself.

    Raises what `train_day` raises, or `RankFailed` where there are several.
    """
    if processes == 1:
        return train_day(spec, day, lake, model, tracker=tracker, cache=cache, cache_limit=cache_limit)
    args = (spec, day, str(lake.root), model, tracker, cache, cache_limit)
    return launch(_train, *args, processes=processes, scratch=lake.root, spark=spark, launcher=launcher)


def launch(
    function: Callable[..., R],
    *args: object,
    processes: int,
    scratch: UPath,
    spark: SparkSession | None = None,
    launcher: Launcher = "local",
) -> R:
    """What `function(*args)`, called in so many processes, gives in the first of them.

    function: of a module, which they can import. scratch: a folder which all of them can write to. launcher: `local` starts
    them here, and so does Spark's TorchDistributor on the `driver`; on `executors` they are tasks. Raises `RankFailed`,
    `ValueError` for Spark's launchers without `spark`.
    """
    if launcher != "local" and spark is None:
        raise ValueError(f"launcher {launcher} needs Spark: set EVERGREEN_SPARK_MASTER, or EVERGREEN_LAUNCHER=local")
    failures = scratch / f".launched-{uuid.uuid4().hex}"
    try:
        if launcher == "local":
            return _here(processes, function, str(failures), *args)
        from pyspark.ml.torch.distributor import TorchDistributor

        distributor = TorchDistributor(processes, local_mode=launcher == "driver", use_gpu=torch.cuda.is_available())
        return distributor.run(_telling, function, str(failures), *args)  # type: ignore[return-value]
    except Exception as error:
        raise _failure(error, failures) from error
    finally:
        if failures.exists():
            failures.fs.rm(failures.path, recursive=True)


def _here(processes: int, function: Callable[..., R], failures: str, *args: object) -> R:
    """Processes of this one, which meet by way of a file: nothing listens beyond the loopback interface."""
    with tempfile.TemporaryDirectory() as folder:
        given = (processes, folder, function, failures, *args)
        context = start_processes(_rank, given, nprocs=processes, join=False, start_method="spawn")
        assert context is not None
        try:
            while not context.join():
                pass
        except BaseException:
            _end([process for process in context.processes if process is not None])
            raise
        return pickle.loads((Path(folder) / _RESULT).read_bytes())  # noqa: S301 (of a process of this one)


def _end(processes: Sequence[BaseProcess]) -> None:
    """Ask those that live to stop, which makes a checkpoint; after a while do not ask any more."""
    for process in processes:
        process.terminate()
    until = time.monotonic() + _SECONDS_TO_STOP
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))
        process.kill()


def _rank(rank: int, processes: int, folder: str, function: Callable[..., R], failures: str, *args: object) -> None:
    """What a process of `_here` does: with torchrun's variables, and another place to meet."""
    of_all = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "RANK": rank, "LOCAL_RANK": rank}
    os.environ |= {name: str(value) for name, value in of_all.items()} | {_MEETING: f"file://{folder}/meeting"}
    result = _telling(function, failures, *args)
    if rank == 0:
        (Path(folder) / _RESULT).write_bytes(pickle.dumps(result))


def _telling(function: Callable[..., R], failures: str, *args: object) -> R:
    """The call, and a note of what it raised: launchers tell of that in part, or not at all."""
    try:
        return function(*args)
    except BaseException as error:
        kinds = [cls.__name__ for cls in type(error).__mro__]
        told = {"time": time.time(), "rank": int(os.environ["RANK"]), "traceback": traceback.format_exc(), "kinds": kinds}
        folder = UPath(failures)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{told['rank']}.json").write_text(json.dumps(told))
        if isinstance(error, KeyboardInterrupt):
            raise SystemExit(128 + signal.SIGINT) from error  # who starts processes takes an interrupt for an end
        raise


def _failure(error: Exception, failures: UPath) -> RankFailed:
    """Of the rank that failed first: others fail when they miss it."""
    notes = {}
    for path in failures.glob("*.json") if failures.exists() else ():
        with suppress(ValueError):  # ended while it wrote
            note = json.loads(path.read_text())
            notes[note["rank"]] = note
    if isinstance(error, ProcessExitedException) and error.error_index not in notes:
        how = error.signal_name or f"exit code {error.exit_code}"
        return RankFailed(f"rank {error.error_index} ended without a word: {how}; SIGKILL is often for want of memory")
    if not notes:
        return RankFailed(str(error))
    first = min(notes.values(), key=lambda told: told["time"])
    return RankFailed(f"rank {first['rank']} failed:\n{first['traceback']}", first["kinds"])


@contextmanager
def process_group() -> Iterator[Ranks]:
    """The processes that `launch` or torchrun started, as its variables say: NCCL between GPUs, Gloo between CPUs."""
    if os.environ["LOCAL_WORLD_SIZE"] == os.environ["WORLD_SIZE"] and sys.platform in _LOOPBACK:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", _LOOPBACK[sys.platform])
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
        init_method=os.environ.get(_MEETING, "env://"),
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
    )
    yield Ranks.of()
    dist.destroy_process_group()  # not after an error: others would fail of that before the error is told


def _train(
    spec: DatasetSpec,
    day: str,
    root: str,
    model: str | None,
    tracker: Tracker | None,
    cache: str | None,
    cache_limit: str | None,
) -> TrainedDay:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what is open is closed
    with process_group() as ranks:
        return train_day(spec, day, Lake.at(root), model, tracker=tracker, ranks=ranks, cache=cache, cache_limit=cache_limit)


@click.command(help="Train a day of a dataset, by as many processes as torchrun starts.")
@click.argument("dataset")
@click.argument("day")
@click.option("--model", help="One of those that the dataset names; by default the first.")
@click.option("--lake", envvar=["EVERGREEN_LAKE", "EVERGREEN_HOME"], default=".evergreen", show_default=True, help="Its root.")
@click.option(
    "--catalog",
    envvar="EVERGREEN_CATALOG",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=CATALOG,
    help="Where the datasets' YAML files are.",
)
@click.option("--cache", envvar="EVERGREEN_CACHE", help="A folder of this machine for shards of a lake elsewhere.")
@click.option("--cache-limit", envvar="EVERGREEN_CACHE_LIMIT", help="How much of it at most, as in 100gb.")
def main(
    dataset: str, day: str, model: str | None, lake: str, catalog: Path, cache: str | None, cache_limit: str | None
) -> None:
    specs = load_catalog(catalog)
    if dataset not in specs:
        raise click.BadParameter(f"no dataset {dataset!r}; the catalog has {sorted(specs)}")
    if model is not None and model not in specs[dataset].models:
        raise click.BadParameter(f"{dataset} has no model {model!r}; it has {sorted(specs[dataset].models)}")
    if "LOCAL_WORLD_SIZE" not in os.environ:
        raise click.UsageError("start it with torchrun: torchrun --nproc-per-node 2 -m ml.distributed.launch ...")
    trained = _train(specs[dataset], day, lake, model, None, cache or None, cache_limit or None)
    if os.environ["RANK"] == "0":
        click.echo(f"{trained.folder}: {trained.report.rows:,} rows, loss {trained.report.loss}")


if __name__ == "__main__":
    record(main)()
