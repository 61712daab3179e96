"""Prints the advised recipe of a model with its reasons, from the profiles in the lake. It writes only the calibration.

python -m orchestration.advise criteo --model dcn_v2 --seconds 60
"""

import re
from pathlib import Path
from typing import Any

import click
import yaml
from rich.console import Console

from ml.advisor.advise import advise
from ml.advisor.advised_search import advised_search
from ml.advisor.calibration import calibration_of
from ml.advisor.explain import to_markdown, to_terminal
from ml.advisor.hardware import detect
from ml.advisor.profiles.day import profile_of
from ml.advisor.profiles.days import days_to_profile
from ml.advisor.rule_files import rules_of
from ml.advisor.wishes import Wishes, wishes_of
from ml.catalog.load import CatalogError
from ml.lake import Lake, StalePartition
from ml.recipes.search import Search
from ml.recipes.sections import to_sections
from ml.recipes.wishes import size_in_bytes
from orchestration.deployments import home, lake_root
from orchestration.replay import quiet_console, the_dataset


class Size(click.ParamType):
    """A number of bytes, such as 500mb."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return size_in_bytes(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Target(click.ParamType):
    """A metric and a value, such as auc=0.76."""

    name = "metric=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, float]:
        match = re.fullmatch(r"(auc|log_loss)=(0?\.\d+|1|0)", str(value))
        if not match or not float(match[2]):
            self.fail(f"{value!r} is not a target such as auc=0.76 or log_loss=0.45", param, ctx)
        return match[1], float(match[2])


@click.command()
@click.argument("dataset")
@click.option("--model", help="One of the dataset's models; by default the first.")
@click.option(
    "--days", type=click.IntRange(min=1), help="Number of profiled days to use; by default the newest consecutive days."
)
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="Limit of CPU-seconds for training a day.")
@click.option("--memory", type=Size(), help="Limit of memory for training, such as 2gb; by default 80 % of the machine's.")
@click.option("--target", type=Target(), help="Metric value at which training of a day stops, such as auc=0.76.")
@click.option("--trials", type=click.IntRange(min=1), help="Number of trials of a tuning.")
@click.option("--parallel", type=click.IntRange(min=1), help="Number of trials at a time.")
@click.option(
    "--rules",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="File with your own rules, after those of the entry.",
)
@click.option("--search", is_flag=True, help="Also print the search space of tuning.")
@click.option("--recipe", "only_recipe", is_flag=True, help="Print only the recipe keys that change, as YAML.")
@click.option("--markdown", is_flag=True, help="Print Markdown.")
def main(
    dataset: str,
    model: str | None,
    days: int | None,
    seconds: float | None,
    memory: float | None,
    target: Any,
    trials: int | None,
    parallel: int | None,
    rules: tuple[Path, ...],
    search: bool,
    only_recipe: bool,
    markdown: bool,
) -> None:
    """Print the advised recipe of a model of DATASET, and the reason of each value."""
    quiet_console()
    spec = the_dataset(dataset)
    if model is not None and model not in spec.models:
        raise click.BadParameter(
            f"{dataset} has no model {model!r}; its models are {', '.join(spec.models)}", param_hint="--model"
        )
    lake, hardware = Lake.at(lake_root()), detect()
    try:
        chosen = days_to_profile(spec, lake, most=days)
        profile = profile_of(spec, chosen, lake) if chosen else None
        said = wishes_of(spec, model or spec.primary)
    except (StalePartition, CatalogError) as error:
        raise click.ClickException(str(error)) from error
    wishes = Wishes(seconds or said.seconds, memory or said.memory, target or said.target, trials, parallel)
    calibration = calibration_of(home(), hardware) if profile else None
    try:
        known = rules_of(spec, *rules)
        advice = advise(spec, model or spec.primary, profile, hardware, wishes, rules=known, calibration=calibration)
    except CatalogError as error:
        raise click.ClickException(str(error)) from error
    found = advised_search(advice, wishes, hardware.cores)
    if only_recipe:
        click.echo(yaml.safe_dump(to_sections(advice.overrides), sort_keys=False, default_flow_style=None), nl=False)
    elif markdown:
        click.echo(to_markdown(advice), nl=False)
    else:
        Console().print(to_terminal(advice))
    if search:
        click.echo(yaml.safe_dump({"sigopt": found.section}, sort_keys=False, default_flow_style=None), nl=False)
        for warning in Search.model_validate(found.section).warnings():
            click.echo(warning, err=True)


if __name__ == "__main__":
    main()
