"""`make demo`: runs the first days of a dataset from raw lines to reports, and prints a table of their metrics."""

import json
import logging
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.recipes.changes import recipe_changes
from ml.stages import EVALUATION_REPORTS, RAW_LOGS
from orchestration.deployments import lake_root, landing_root
from orchestration.replay import DayFailed, quiet_console, replay, the_dataset
from orchestration.report_tables import blank_metrics, label_tables, metrics_table, ranking_tables, recent_line

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


@click.command()
@click.argument("dataset", default="synthetic")
@click.option("--logs", help="Folder of the dataset's raw logs.")
@click.option("--days", type=click.IntRange(min=2), help="Number of days; by default demo_days of the catalog.")
@click.option("--fresh", is_flag=True, help="Run all days again, from the first, even those that are done.")
def main(dataset: str, logs: str | None, days: int | None, fresh: bool) -> None:
    """Run the main job on the first days of DATASET, and print its metrics and the path of the report."""
    quiet_console()
    spec = the_dataset(dataset)
    link_logs(spec, logs)
    chosen = spec.days(last=spec.partitions.start.fromordinal(spec.partitions.start.toordinal() + 3650))
    chosen = chosen[: days or spec.demo_days]
    try:
        ran = replay(spec, chosen, redo=fresh, fresh=fresh)
    except DayFailed as error:
        raise click.ClickException(str(error)) from error
    lake = Lake.at(lake_root())
    console = Console()
    metrics = {day: metrics_of(lake, spec, day) for day in chosen}
    for ranking in ranking_tables(spec, metrics):
        console.print(ranking)
    console.print(metrics_table(spec, metrics))
    for of_label in label_tables(spec, metrics):
        console.print(of_label)
    console.print(
        "NE: normalised entropy. LR: hashed logistic regression on the same days."
        + (" Best: the true probabilities." if spec.oracle else "")
    )
    for line in blank_metrics(metrics):
        console.print(line, soft_wrap=True)
    if recent := recent_line(spec, metrics[chosen[-1]]):
        console.print(recent, soft_wrap=True)
    console.print(f"{len(ran)} of {len(chosen)} days ran, {len(chosen) - len(ran)} were already done.")
    if not ran:
        console.print(f"To run them again: make demo DATASET={spec.name} FRESH=1", soft_wrap=True)
    for change in recipe_changes(spec, chosen, lake):
        console.print(change.describe(spec, chosen[-1]), soft_wrap=True)
    if outside := sum(lake.manifest(RAW_LOGS, spec.name, day).get("out_of_range", 0) for day in chosen):
        console.print(f"{outside:,} lines before or after the partitions of the catalog entry were left out.")
    console.print("Report: ", lake.partition(EVALUATION_REPORTS, spec.name, chosen[-1]) / "report.html", sep="", soft_wrap=True)
    console.print("Metrics:", lake.partition(EVALUATION_REPORTS, spec.name, chosen[-1]) / "metrics.json", soft_wrap=True)


if __name__ == "__main__":
    main()
