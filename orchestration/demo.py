"""`make demo`: runs the first days of a dataset from raw lines to reports, and prints a table of their metrics."""

import json
import logging
from pathlib import Path
from typing import Any

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.stages import EVALUATION_REPORTS
from orchestration.deployments import lake_root, landing_root
from orchestration.replay import DayFailed, quiet_console, replay, the_dataset

log = logging.getLogger("evergreen")


def link_logs(spec: DatasetSpec, logs: str | None) -> None:
    """Link the dataset's landing folder to a folder of logs. The link stays for later commands and the UI."""
    if logs is None:
        if not UPath(landing_root(), spec.name).exists() and not spec.simulation:
            raise click.ClickException(
                f"{spec.name} needs its logs: make demo DATASET={spec.name} LOGS=<folder with {spec.source.files}>"
            )
        return
    if spec.simulation:
        raise click.ClickException(f"{spec.name} simulates its own log: run it without LOGS")
    folder = Path(logs).expanduser().resolve()
    if not folder.is_dir():
        raise click.ClickException(f"LOGS: there is no folder {folder}")
    if UPath(landing_root()).protocol not in ("", "file"):
        raise click.ClickException(f"the landing folder is {landing_root()}: copy the logs to {landing_root()}/{spec.name}")
    landing = Path(UPath(landing_root()).path) / spec.name
    if landing.resolve() == folder:
        return
    landing.parent.mkdir(parents=True, exist_ok=True)
    if landing.is_symlink():
        landing.unlink()
    elif landing.exists():
        raise click.ClickException(f"{landing} is a folder and not a link; move it away to use {folder} instead")
    landing.symlink_to(folder)


def metrics_of(lake: Lake, spec: DatasetSpec, day: str) -> dict[str, Any]:
    """Return the content of a report's `metrics.json`."""
    return json.loads((lake.require(EVALUATION_REPORTS, spec.name, day) / "metrics.json").read_text())


def table_of(spec: DatasetSpec, metrics: dict[str, dict[str, Any]]) -> Table:
    """Build a table with one row per day: metrics of the model, which had not seen the day, and of the baselines."""
    table = Table(
        box=SIMPLE_HEAD,
        pad_edge=False,
        title=f"{spec.name}: yesterday's model on a day it has not seen" + (" (simulated)" if spec.simulation else ""),
    )
    best = ("best",) if spec.oracle else ()
    for column in ("day", "rows", "AUC", "log loss", "NE", "pred/obs", "LR AUC", *best):
        table.add_column(column, justify="right", no_wrap=True)
    for day, found in metrics.items():
        model, regression = found.get("model") or {}, (found.get("baselines") or {}).get("logistic_regression") or {}
        oracle = found.get("oracle") or {}
        cells = [model.get("auc"), model.get("log_loss"), model.get("normalised_entropy"), model.get("calibration")]
        cells += [regression.get("auc")] + ([oracle.get("auc")] if spec.oracle else [])
        table.add_row(day, f"{found['data']['rows']:,}", *("–" if cell is None else f"{cell:.4f}" for cell in cells))
    return table


@click.command()
@click.argument("dataset", default="synthetic")
@click.option("--logs", help="Folder of the dataset's raw logs.")
@click.option("--days", type=click.IntRange(min=2), help="Number of days; by default demo_days of the catalog.")
def main(dataset: str, logs: str | None, days: int | None) -> None:
    """Run the main job on the first days of DATASET, and print its metrics and the path of the report."""
    quiet_console()
    spec = the_dataset(dataset)
    link_logs(spec, logs)
    chosen = spec.days(last=spec.partitions.start.fromordinal(spec.partitions.start.toordinal() + 3650))
    chosen = chosen[: days or spec.demo_days]
    try:
        ran = replay(spec, chosen)
    except DayFailed as error:
        raise click.ClickException(str(error)) from error
    lake = Lake.at(lake_root())
    console = Console()
    console.print(table_of(spec, {day: metrics_of(lake, spec, day) for day in chosen}))
    console.print(
        "NE: normalised entropy. LR: hashed logistic regression on the same days."
        + (" Best: the true probabilities." if spec.oracle else "")
    )
    console.print(f"{len(ran)} of {len(chosen)} days ran, {len(chosen) - len(ran)} were already done.")
    console.print("Report: ", lake.partition(EVALUATION_REPORTS, spec.name, chosen[-1]) / "report.html", sep="", soft_wrap=True)
    console.print("Metrics:", lake.partition(EVALUATION_REPORTS, spec.name, chosen[-1]) / "metrics.json", soft_wrap=True)


if __name__ == "__main__":
    main()
