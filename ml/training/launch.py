"""Training a day on several processes: who starts them, and what becomes of their errors.

    torchrun --nproc-per-node 2 -m ml.training.launch criteo 2014-01-02

does by hand what `train_day_on` does for the assets. Each process makes the same call of `train_day`; if one fails, the others
are ended, and its traceback is what is told.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import click
import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import record
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from upath import UPath

from ml.catalog.load import CATALOG, load_catalog
from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.training.daily import TrainedDay, train_day
from ml.training.ranks import Ranks

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from ml.training.tracking import Tracker

Launcher = Literal["torchrun", "driver", "executors"]
R = TypeVar("R")


class RankFailed(RuntimeError):
    """One of several processes failed; the message has its traceback."""


def train_day_on(
    processes: int,
    spec: DatasetSpec,
    day: str,
    lake: Lake,
    model: str | None = None,
    *,
    spark: SparkSession | None = None,
    launcher: Launcher = "torchrun",
    tracker: Tracker | None = None,
) -> TrainedDay:
    """`train_day`, by that many processes, of this machine or of Spark's. One is this process itself.

    Raises what `train_day` raises, or `RankFailed` where there are several.
    """
    if processes == 1:
        return train_day(spec, day, lake, model, tracker=tracker)
    args = (spec, day, str(lake.root), model, tracker)
    return launch(_train, *args, processes=processes, scratch=lake.root / ".launched", spark=spark, launcher=launcher)


def launch(
    function: Callable[..., R],
    *args: object,
    processes: int,
    scratch: UPath,
    spark: SparkSession | None = None,
    launcher: Launcher = "torchrun",
) -> R:
    """What `function(*args)`, called in so many processes, gives in the first of them.

    function: of a module, which they can import. scratch: a folder which all of them can write to. launcher: torchrun starts
    them here, and so does Spark's TorchDistributor on the `driver`; on `executors` they are tasks. Raises `RankFailed`,
    `ValueError` for Spark's launchers without `spark`.
    """
    if launcher != "torchrun" and spark is None:
        raise ValueError(f"launcher {launcher} needs Spark: set EVERGREEN_SPARK_MASTER, or EVERGREEN_LAUNCHER=torchrun")
    failures = scratch / uuid.uuid4().hex
    try:
        if launcher == "torchrun":
            return _torchrun(processes, _telling, function, str(failures), *args)
        from pyspark.ml.torch.distributor import TorchDistributor

        distributor = TorchDistributor(processes, local_mode=launcher == "driver", use_gpu=torch.cuda.is_available())
        return distributor.run(_telling, function, str(failures), *args)  # type: ignore[return-value]
    except Exception as error:
        raise RankFailed(_first_failure(failures) or str(error)) from error
    finally:
        if failures.exists():
            failures.fs.rm(failures.path, recursive=True)


def _telling(function: Callable[..., R], failures: str, *args: object) -> R:
    """The call, and a note of what it raised: launchers tell of that in part, or not at all."""
    try:
        return function(*args)
    except Exception:
        folder = UPath(failures)
        folder.mkdir(parents=True, exist_ok=True)
        told = {"time": time.time(), "rank": os.environ["RANK"], "traceback": traceback.format_exc()}
        (folder / f"{told['rank']}.json").write_text(json.dumps(told))
        raise


def _first_failure(failures: UPath) -> str | None:
    """Of the rank that failed first: others fail when they miss it."""
    found = [json.loads(path.read_text()) for path in failures.glob("*.json")] if failures.exists() else []
    first = min(found, key=lambda told: told["time"], default=None)
    return first and f"rank {first['rank']} failed:\n{first['traceback']}"


def _torchrun(processes: int, function: Callable[..., R], *args: object) -> R:
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.1,
        start_method="spawn",
    )
    return elastic_launch(config, function)(*args)[0]


@contextmanager
def process_group() -> Iterator[Ranks]:
    """The processes that torchrun started, as its variables say: NCCL between GPUs, Gloo between CPUs."""
    if os.environ["LOCAL_WORLD_SIZE"] == os.environ["WORLD_SIZE"] and sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    yield Ranks.of()
    dist.destroy_process_group()  # not after an error: others would fail of that before the error is told


def _train(spec: DatasetSpec, day: str, root: str, model: str | None, tracker: Tracker | None) -> TrainedDay:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with process_group() as ranks:
        return train_day(spec, day, Lake.at(root), model, tracker=tracker, ranks=ranks)


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
def main(dataset: str, day: str, model: str | None, lake: str, catalog: Path) -> None:
    specs = load_catalog(catalog)
    if dataset not in specs:
        raise click.BadParameter(f"no dataset {dataset!r}; the catalog has {sorted(specs)}")
    if model is not None and model not in specs[dataset].models:
        raise click.BadParameter(f"{dataset} has no model {model!r}; it has {sorted(specs[dataset].models)}")
    trained = _train(specs[dataset], day, lake, model, None)
    if os.environ["RANK"] == "0":
        click.echo(f"{trained.folder}: {trained.report.rows:,} rows, loss {trained.report.loss}")


if __name__ == "__main__":
    record(main)()
