"""Splits a joined log into streams of impressions and actions, to try the joiner on a log whose labels are known.

    python -m orchestration.split globo --days 2 --delays lognormal:median=10m,sigma=1 --wait 1h --out /data/globo-streams

The folder then holds `impressions/` and `actions/`, the truth, and a catalog entry that joins them again.
"""

import shutil
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from upath import UPath

from assets.policy import key
from ml.catalog.spec import DatasetSpec
from ml.days import yesterday
from ml.joiner.split.delays import FORMS, Delays, duration
from ml.joiner.split.options import SplitOptions
from ml.joiner.split.write import Split, split_days
from ml.lake import Lake
from ml.logs.sources import find_files
from ml.stages import RAW_LOGS
from orchestration.demo import link_logs
from orchestration.deployments import lake_root, landing_root
from orchestration.materialize import materialize
from orchestration.replay import quiet_console, the_dataset


class _Parsed(click.ParamType):
    """A parameter of text that a function parses, whose `ValueError` says what is expected."""

    def __init__(self, name: str, parse: Any) -> None:
        self.name, self.parse = name, parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self.parse(value)
        except (ValueError, OSError) as error:
            self.fail(str(error), param, ctx)


def _signed(text: str) -> int:
    return -duration(text[1:]) if text.startswith("-") else duration(text)


DURATION, SIGNED, DELAYS = _Parsed("duration", duration), _Parsed("duration", _signed), _Parsed("delays", Delays.parse)
SHARE = click.FloatRange(0, 1)


def chosen_days(spec: DatasetSpec, first: str | None, count: int) -> list[str]:
    """Return consecutive days of a dataset from a day on, by default from its first.

    Raises:
        click.BadParameter: The dataset does not have these days.
    """
    days = spec.days(yesterday(spec.zone))
    if first is not None and first not in days:
        raise click.BadParameter(f"{spec.name} has the days {days[0]} to {days[-1]}, not {first}")
    begin = days.index(first) if first else 0
    if count > len(days) - begin:
        raise click.BadParameter(f"{spec.name} has {len(days) - begin} days from {days[begin]} on, not {count}")
    return days[begin : begin + count]


def copy_side_tables(spec: DatasetSpec, logs: UPath, out: Path) -> None:
    """Copy the files of side tables to the folder of the streams, where the new entry looks for them."""
    for side in spec.join:
        for file in find_files(side.source, logs):
            target = out / file.name.partition("!")[0]
            target.parent.mkdir(parents=True, exist_ok=True)
            with UPath(file.url).open("rb") as source, target.open("wb") as copy:
                shutil.copyfileobj(source, copy)


def report(split: Split, out: Path, name: str) -> list[str]:
    """Return what was written, as lines of text."""
    lines = [f"{split.rows:,} joined rows: {_counts(split.impressions)}; actions: {_counts(split.actions)}"]
    for kind, count in split.lines.items():
        lines.append(f"{out / kind}: {count:,} lines in {split.files[kind]:,} files, {split.corrupt[kind]:,} corrupt")
    return [*lines, f"entry: {out / name}.yaml; truth: {out / 'truth.parquet'}"]


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {state}" for state, count in sorted(counts.items()))


@click.command()
@click.argument("dataset")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A new folder for the streams.")
@click.option("--logs", help="Folder of the dataset's raw logs.")
@click.option("--name", help="Name of the new dataset; by default DATASET_streams.")
@click.option("--first", help="First day to split; by default the first of the log.")
@click.option("--days", type=click.IntRange(min=1), default=1, show_default=True, help="Number of days to split.")
@click.option("--delays", type=DELAYS, default=SplitOptions.delays, help=f"Time from an impression to its action: {FORMS}.")
@click.option("--wait", type=DURATION, default="1h", show_default=True, help="Time in which an action counts for the label.")
@click.option("--longest-delay", type=DURATION, default="12h", show_default=True, help="Longer delays are reduced to this.")
@click.option("--transport", type=DURATION, default="5s", show_default=True, help="Mean time from an event to its arrival.")
@click.option("--disorder", type=DURATION, default="10m", show_default=True, help="Longest time from an event to its arrival.")
@click.option("--duplicates", type=SHARE, default=0.05, show_default=True, help="Share of lines that arrive twice.")
@click.option("--malformed", type=SHARE, default=0.0, show_default=True, help="Share of lines that are corrupt.")
@click.option("--orphans", type=SHARE, default=0.0, show_default=True, help="Share of actions whose impression is missing.")
@click.option("--clock-jump", type=SIGNED, default="0s", show_default=True, help="Error of clocks in six minutes of each day.")
@click.option("--file-span", type=DURATION, default="10m", show_default=True, help="Span of arrival times in a file.")
@click.option(
    "--speed", type=click.FloatRange(min=0), default=0.0, help="Seconds of the log written per second; 0 for no limit."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="The same seed gives the same files.")
def main(
    dataset: str, out: Path, logs: str | None, name: str | None, first: str | None, days: int, speed: float, **given: Any
) -> None:
    """Split days of DATASET into impressions and actions that arrive late, out of order and repeatedly."""
    quiet_console()
    spec = the_dataset(dataset)
    link_logs(spec, logs)
    chosen = chosen_days(spec, first, days)
    spec, lake, name = spec.starting_at(chosen[0]), Lake.at(lake_root()), name or f"{dataset}_streams"
    for day in chosen:
        if not lake.has(RAW_LOGS, spec.name, day):
            materialize(spec, day, [key(spec, RAW_LOGS)])
    try:
        split = split_days(spec, chosen, lake, out, name, SplitOptions(**given), speed)
    except (ValueError, FileExistsError) as error:
        raise click.ClickException(str(error)) from error
    copy_side_tables(spec, UPath(landing_root(), spec.name), out)
    console = Console(highlight=False, soft_wrap=True)
    for line in report(split, out, name):
        console.print(line)


if __name__ == "__main__":
    main()
