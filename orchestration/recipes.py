"""Imports a search of another tool into the user's edits of a recipe, and exports what tuning searches.

    python -m orchestration.recipes import experiment.yml synthetic --model dlrm
    python -m orchestration.recipes export synthetic --model dlrm --as sda

The other tools are the Smart Democratization Advisor and SigOpt.
"""

from pathlib import Path
from typing import Any

import click

from ml.advisor.hardware import detect
from ml.advisor.plan import Plan, plan_tuning
from ml.advisor.rule_files import rules_of
from ml.catalog.load import CatalogError
from ml.catalog.spec import DatasetSpec
from ml.days import yesterday
from ml.lake import Lake
from ml.recipes.dialects.choices import Choices
from ml.recipes.dialects.read import read_search
from ml.recipes.dialects.section import SECTION, section_of, write_section
from ml.recipes.dialects.write import as_yaml, to_sda, to_sigopt
from orchestration.deployments import home, lake_root
from orchestration.replay import quiet_console, the_dataset

WAY_OUT = "set `key` in the file, or pass --key, --metric, --steps or --skip"


class Pair(click.ParamType):
    """Two names, such as MAP=auc."""

    name = "name=name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        before, equals, after = str(value).partition("=")
        if not (before and equals and after):
            self.fail(f"{value!r} is not a pair such as MAP=auc", param, ctx)
        return before, after


@click.group()
def main() -> None:
    """Import and export searches of other tools."""
    quiet_console()


@main.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("dataset")
@click.option("--model", help="One of the dataset's models; by default the first.")
@click.option("--key", "keys", type=Pair(), multiple=True, help="Recipe key of a parameter: NAME=KEY.")
@click.option("--metric", "metrics", type=Pair(), multiple=True, help="Metric of the file and its metric here: MAP=auc.")
@click.option("--skip", multiple=True, help="Parameter, metric or key of the file to leave out.")
@click.option(
    "--steps",
    type=click.FloatRange(min=0, min_open=True),
    help="Length of the original's training, in the steps or epochs of its schedule.",
)
@click.option("--print", "printed", is_flag=True, help="Print the section `sigopt` instead of writing it.")
@click.option("--overwrite", is_flag=True, help="Replace the section `sigopt` of the edits.")
def import_(
    file: Path,
    dataset: str,
    model: str | None,
    keys: tuple[tuple[str, str], ...],
    metrics: tuple[tuple[str, str], ...],
    skip: tuple[str, ...],
    steps: float | None,
    printed: bool,
    overwrite: bool,
) -> None:
    """Write the search of FILE to the edits of a model of DATASET, in place of the advised search."""
    spec, model = _model_of(dataset, model)
    choices = Choices(dict(keys), dict(metrics), frozenset(skip), steps)
    try:
        recipe = _plan(spec, model).recipe
        found = read_search(file, recipe, choices)
        advised = [one.name for one in rules_of(spec).searched(recipe.model.kind)]
        section = section_of(found.search, advised)
        path = spec.models[model].edits
        if path is not None and not printed:
            write_section(path, section, overwrite=overwrite)
    except CatalogError as error:
        raise click.ClickException(f"{file} was not imported; {WAY_OUT}\n{error}") from error
    for note in found.notes:
        click.echo(note, err=True)
    click.echo(as_yaml({SECTION: section}) if printed else f"wrote the section {SECTION} of {path}", nl=not printed)


@main.command()
@click.argument("dataset")
@click.option("--model", help="One of the dataset's models; by default the first.")
@click.option(
    "--as", "dialect", type=click.Choice(["sigopt", "sda"]), default="sigopt", help="Format of the file; by default SigOpt's."
)
@click.option("--day", help="The day to tune for, YYYY-MM-DD; by default the last one.")
def export(dataset: str, model: str | None, dialect: str, day: str | None) -> None:
    """Print what tuning searches for a model of DATASET: the advised search with the user's edits."""
    spec, model = _model_of(dataset, model)
    if day is not None and day not in spec.days(yesterday(spec.zone)):
        raise click.BadParameter(f"{day!r} is not a day of {dataset}", param_hint="--day")
    try:
        search = _plan(spec, model, day).search
    except CatalogError as error:
        raise click.ClickException(str(error)) from error
    click.echo(as_yaml(to_sigopt(search, model) if dialect == "sigopt" else to_sda(search, model, spec.name)), nl=False)


def _model_of(dataset: str, model: str | None) -> tuple[DatasetSpec, str]:
    spec = the_dataset(dataset)
    if model is not None and model not in spec.models:
        known = ", ".join(spec.models)
        raise click.BadParameter(f"{dataset} has no model {model!r}; its models are {known}", param_hint="--model")
    return spec, model or spec.primary


def _plan(spec: DatasetSpec, model: str, day: str | None = None) -> Plan:
    day = day or spec.days(yesterday(spec.zone))[-1]
    return plan_tuning(spec, model, day, Lake.at(lake_root()), detect(), home=home())


if __name__ == "__main__":
    main()
