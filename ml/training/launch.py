"""Training a day on several processes.

    torchrun --nproc-per-node 2 -m ml.training.launch criteo 2014-01-02

is the command-line form of `train_day_on`, which the assets call: each process makes the same call of `train_day`.
`ml.distributed.launch` starts processes and collects their errors.
"""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path

import click
from torch.distributed.elastic.multiprocessing.errors import record

from ml.catalog.load import CATALOG, read_catalog
from ml.catalog.spec import DatasetSpec
from ml.datasets.cache_config import CacheConfig
from ml.distributed.launch import Processes, launch, process_group
from ml.lake import Lake
from ml.training.day import DayOptions, train_day
from ml.training.report import TrainedDay


def train_day_on(
    processes: Processes,
    spec: DatasetSpec,
    day: str,
    lake: Lake,
    model: str | None = None,
    options: DayOptions | None = None,
) -> TrainedDay:
    """Call `train_day` in one or more processes; a single one is this process itself.

    Args:
        processes: Number of processes, and their launcher.
        spec: The dataset.
        day: `YYYY-MM-DD`.
        lake: As for `train_day`.
        model: As for `train_day`.
        options: As for `train_day`.

    Returns:
        The trained day.

    Raises:
        RankFailed: One of several processes failed.
        Exception: With a single process, whatever `train_day` raises.
    """
    if processes.count == 1:
        return train_day(spec, day, lake, model, options)
    return launch(_train_on_rank, spec, day, lake, model, options, processes=processes, scratch=lake.root)


def _train_on_rank(spec: DatasetSpec, day: str, lake: Lake, model: str | None, options: DayOptions | None) -> TrainedDay:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that open files and processes are closed
    with process_group() as ranks:
        return train_day(spec, day, lake, model, options, ranks)


@click.command(help="Train a day of a dataset with the processes that torchrun starts.")
@click.argument("dataset")
@click.argument("day")
@click.option("--model", help="One of the dataset's models; by default the first.")
@click.option(
    "--lake", envvar=["EVERGREEN_LAKE", "EVERGREEN_HOME"], default=".evergreen", show_default=True, help="Root of the lake."
)
@click.option(
    "--catalog",
    envvar="EVERGREEN_CATALOG",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=CATALOG,
    help="Folder of the datasets' YAML files.",
)
@click.option("--cache", envvar="EVERGREEN_CACHE", help="Folder of this machine in which shards of a remote lake are cached.")
@click.option("--cache-limit", envvar="EVERGREEN_CACHE_LIMIT", help="Largest size of the cache, such as 100gb.")
def main(
    dataset: str, day: str, model: str | None, lake: str, catalog: Path, cache: str | None, cache_limit: str | None
) -> None:
    """Train one day on the processes that torchrun started."""
    found = read_catalog(catalog)
    specs = found.datasets
    if dataset in found.broken:
        raise click.UsageError(str(found.broken[dataset]))
    if dataset not in specs:
        raise click.BadParameter(f"no dataset {dataset!r}; the catalog has {sorted(specs)}")
    if model is not None and model not in specs[dataset].models:
        raise click.BadParameter(f"{dataset} has no model {model!r}; it has {sorted(specs[dataset].models)}")
    if "LOCAL_WORLD_SIZE" not in os.environ:
        raise click.UsageError("start it with torchrun: torchrun --nproc-per-node 2 -m ml.training.launch ...")
    options = DayOptions(cache=CacheConfig.of(cache, cache_limit))
    trained = _train_on_rank(specs[dataset], day, Lake.at(lake), model, options)
    if os.environ["RANK"] == "0":
        click.echo(f"{trained.folder}: {trained.report.rows:,} rows, loss {trained.report.loss}")


if __name__ == "__main__":
    record(main)()
