"""`make tune`: tunes the recipe of a model on the days before a day, trains the day with the result, and prints the trials."""

import json
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from assets.policy import key
from ml.catalog.spec import DatasetSpec
from ml.days import yesterday
from ml.lake import Lake
from ml.stages import STUDIES, advisor_recipes, exported_models, tuned_models, tuning_results
from ml.trials.earlier import TRIALS
from ml.trials.window import declared_window
from orchestration.demo import link_logs
from orchestration.deployments import lake_root
from orchestration.materialize import materialize
from orchestration.replay import DayFailed, quiet_console, replay, the_dataset

SHORTEST_WINDOW = 3  # a day to train on, one to score, and one to judge the best trial on
CASES = "advisor"  # the study with the four cases
SHOWN = 10
"""Trials that the table shows, the best ones first."""
UNITS = {"training_time": " (s)"}
"""Units of metrics, behind their names in the table."""


def trials_table(spec: DatasetSpec, model: str, day: str, lake: Lake) -> Table:
    """Build a table of the best trials of a tuning, by the first optimized metric."""
    stage = tuning_results(model)
    manifest = lake.manifest(stage, spec.name, day)
    trials = json.loads((lake.require(stage, spec.name, day) / TRIALS).read_text())
    metric = next((m for m in manifest["metrics"] if m["strategy"] == "optimize"), manifest["metrics"][0])
    sign = -1 if metric["objective"] == "maximize" else 1
    order = sorted(
        (n for n, of in enumerate(trials) if not of["failed"]), key=lambda n: sign * trials[n]["values"][metric["name"]]
    )
    stopped = f", {manifest['stopped']} stopped early" if manifest.get("stopped") else ""
    title = f"{spec.name}/{model}: {len(trials)} trials for {day}, {manifest['failed']} failed{stopped}"
    table = Table(title=title, box=None)
    table.add_column("trial", justify="right")
    for of in manifest["metrics"]:
        table.add_column(of["name"] + UNITS.get(of["name"], ""), justify="right")
    table.add_column("values", overflow="fold")
    for number in order[:SHOWN]:
        values = [f"{trials[number]['values'][of['name']]:.5g}" for of in manifest["metrics"]]
        tried = ", ".join(f"{name} {_short(value)}" for name, value in trials[number]["assignments"].items())
        table.add_row(f"{'*' if number in manifest['front'] else ''}{number + 1}", *values, tried)
    return table


def cases_table(summary: dict[str, Any]) -> Table:
    """Build a table of the four cases of the study of the advisor, from its `summary.json`."""
    table = Table(title="The advisor's four cases, in CPU-seconds at equal AUC", box=None)
    for name in ("case", "AUC", "seconds", "speed-up", "article"):
        table.add_column(name, justify="left" if name == "case" else "right")
    training, tuning = summary["training"], summary.get("tuning")
    names = {"original": "original DLRM", "advised": "advised DLRM"}
    known = {case: (training["reached"].get(case) or {}).get("cpu_seconds") for case in names}
    rows = [(names[case], training["auc"], known[case], training) for case in names]
    if tuning:
        spaces = {"wide": "tuning the wide space", "advised": "tuning the advised space"}
        rows += [(spaces[case], tuning["auc"], tuning["cases"][case]["seconds_to_auc"], tuning) for case in spaces]
    for number, (name, auc, seconds, of) in enumerate(rows):
        ratios = (of["speed_up"], of["article"]) if number % 2 else (None, None)
        values = (_figure(auc, ".4f"), _figure(seconds, ".1f"), *(_figure(ratio, ".1f") for ratio in ratios))
        table.add_row(name, *values)
    return table


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@click.command()
@click.argument("dataset", default="synthetic")
@click.option("--logs", help="Folder of the dataset's raw logs.")
@click.option("--model", help="One of the dataset's models; by default the first.")
@click.option("--day", help="The day to tune for, YYYY-MM-DD; by default the last day of the demo.")
@click.option("--budget", type=click.IntRange(min=1), help="Number of trials; by default the recipe's observation_budget.")
@click.option("--parallel", type=click.IntRange(min=1), help="Trials at a time; by default the recipe's parallel_bandwidth.")
@click.option(
    "--window",
    type=click.IntRange(min=SHORTEST_WINDOW),
    help="Number of days to use; by default the recipe's window_days, or all days before.",
)
def main(
    dataset: str,
    logs: str | None,
    model: str | None,
    day: str | None,
    budget: int | None,
    parallel: int | None,
    window: int | None,
) -> None:
    """Tune the recipe of a model of DATASET on the days before a day, and train the day with the result."""
    quiet_console()
    spec = the_dataset(dataset)
    link_logs(spec, logs)
    model = model or spec.primary
    if model not in spec.models:
        raise click.BadParameter(f"{dataset} has no model {model!r}; it has {', '.join(spec.models)}")
    days = spec.days(yesterday(spec.zone))
    days = days[: spec.demo_days] if day is None else days
    day = day or days[-1]
    if day not in days:
        raise click.BadParameter(f"{day!r} is not a day of {dataset}; its days are {days[0]} to {days[-1]}")
    before = [known for known in days if known < day]
    if len(before) < SHORTEST_WINDOW:
        why = f"tuning needs at least {SHORTEST_WINDOW} days before {day}, but there are {len(before)}"
        raise click.BadParameter(why, param_hint="--day")
    lake, console = Lake.at(lake_root()), Console()
    _replay(spec, before)
    asked = {
        "observation_budget": budget,
        "parallel_bandwidth": parallel,
        "window_days": window or min(declared_window(spec, model), len(before)),
    }
    config = {name: value for name, value in asked.items() if value is not None}
    tuning = key(spec, tuning_results(model))
    materialize(spec, day, [tuning], {"ops": {"__".join(tuning.path): {"config": config}}})
    console.print(trials_table(spec, model, day, lake))
    result = lake.manifest(tuning_results(model), spec.name, day)
    why = f": {result['verdict']['reason']}" if result["verdict"] else ""
    outcome = f"Its recipe is used from {day} on" if result["adopted"] else "The recipe in use is kept"
    console.print(f"* best. {outcome}{why}.", highlight=False, soft_wrap=True)
    if lake.has(STUDIES, CASES, spec.name):
        summary = json.loads((lake.require(STUDIES, CASES, spec.name) / "summary.json").read_text())
        console.print(cases_table(summary))
    elif "dlrm" in spec.models:
        select = f".venv/bin/dagster asset materialize -m orchestration.definitions --select {STUDIES}/{spec.name}_{CASES}"
        console.print(f"To compare original and advised DLRM and their tunings: {select}", highlight=False, soft_wrap=True)
    trained = [key(spec, stage(model)) for stage in (advisor_recipes, tuned_models, exported_models)]
    if lake.has(tuned_models(model), spec.name, day):
        materialize(spec, day, trained)
    else:
        _replay(spec, [day])


def _replay(spec: DatasetSpec, days: list[str]) -> None:
    try:
        replay(spec, days)
    except DayFailed as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
