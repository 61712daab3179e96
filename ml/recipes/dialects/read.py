"""Reads a file of the Smart Democratization Advisor, or SigOpt's `experiment.yml`, as the search of a recipe."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ml.catalog.document import read_document, shown
from ml.catalog.explain import describe
from ml.recipes.dialects.choices import Choices
from ml.recipes.dialects.constraints import keep_order, read_constraints
from ml.recipes.dialects.metrics import read_metrics
from ml.recipes.dialects.numbers import as_number
from ml.recipes.dialects.parameters import ParameterReader
from ml.recipes.dialects.report import Report
from ml.recipes.dialects.write import KEY, OWN, OWN_KEYS, experiment_body
from ml.recipes.recipe import Recipe
from ml.recipes.search import Search, check_search
from ml.tuning.errors import ApiError
from ml.tuning.parse.experiments import experiment

TOP = "sigopt"  # key above all others in some of the advisor's files
_NAMES = {"experiment": "experiment", "name": "experiment", "observation_budget": "observation_budget"} | {
    "budget": "observation_budget",
    "project": "project",
    "parallel_bandwidth": "parallel_bandwidth",
}
_LISTS = ("parameters", "metrics", "conditionals", "linear_constraints")
_NEUTRAL = {"type": "offline", "num_solutions": 1, "tasks": [], "object": "experiment"}


@dataclass(frozen=True)
class Imported:
    """A search that was read from a file.

    Attributes:
        search: The search.
        notes: What was read differently from how it is written, one line each.
    """

    search: Search
    notes: tuple[str, ...]


def read_search(path: Path, recipe: Recipe, choices: Choices | None = None) -> Imported:
    """Reads the search of a recipe from a file of another tool.

    Both dialects are understood, also mixed. Parameters without a `key` set the recipe key that their name stands for.

    Args:
        path: The file.
        recipe: The recipe whose keys are searched. Its own values become part of the search.
        choices: What the user decides.

    Returns:
        The search, and notes.

    Raises:
        CatalogError: The file is not valid, or a recipe cannot express it. The message has one line for each fault.
    """
    choices, document = choices or Choices(), read_document(path)
    top = TOP if isinstance(document.data.get(TOP), dict) else None
    report, data = Report(document, top), document.data[TOP] if top else document.data
    for key in sorted(document.data.keys() - {TOP} - choices.skip) if top else ():
        what = f"not part of the experiment; leave it out with --skip {key}"
        report.faults.append(describe(path, [key], what, document))
    found, metadata = _plain_keys(data, choices, report), _metadata(data, report)
    keys = {name.removeprefix(KEY): str(key) for name, key in metadata.items() if name.startswith(KEY)}
    for name in (*OWN_KEYS, "project"):
        if f"{OWN}{name}" in metadata:
            found.setdefault(name, metadata[f"{OWN}{name}"])
    parameters = ParameterReader(recipe, choices, report, keys)
    parameters.read(data.get("parameters"))
    found["metrics"] = read_metrics(data.get("metrics"), choices, report)
    listed = None if "linear_constraints" in choices.skip else data.get("linear_constraints")
    found["linear_constraints"] = keep_order(read_constraints(listed, parameters, report), parameters, report)
    if data.get("conditionals") and "conditionals" not in choices.skip:
        found["conditionals"] = data["conditionals"]
    _unused(data, document.data, choices, parameters, report)
    report.check()
    return Imported(_checked({**found, "parameters": list(parameters.found.values())}, recipe, report), tuple(report.notes))


def _plain_keys(data: Mapping[str, Any], choices: Choices, report: Report) -> dict[str, Any]:
    """Returns the keys of a search other than lists, and records unknown ones."""
    found: dict[str, Any] = {}
    for key, value in data.items():
        ours = _NAMES.get(key)
        if key in choices.skip:
            report.note([key], "is left out")
        elif ours in found and value is not None:
            report.fault([key], f"{ours} is given twice")
        elif ours and value is not None:
            found[ours] = as_number(value, whole=True) if ours in ("observation_budget", "parallel_bandwidth") else value
        elif not ours and key not in (*_LISTS, "metadata") and value not in (None, _NEUTRAL.get(key)):
            report.fault([key], f"a recipe cannot express it, found {shown(value)}; leave it out with --skip {key}")
    if "observation_budget" not in found:
        report.note([], "the file has no budget, so the advised one is used")
    return found


def _metadata(data: Mapping[str, Any], report: Report) -> dict[str, Any]:
    metadata = data.get("metadata") or {}
    if not isinstance(metadata, dict):
        report.fault(["metadata"], "expected keys with values")
        return {}
    for key in metadata:
        if not key.startswith(OWN):
            report.note(["metadata", key], "is left out, because a recipe has no metadata")
    return metadata


def _unused(
    data: Mapping[str, Any], top: Collection[str], choices: Choices, parameters: ParameterReader, report: Report
) -> None:
    """Records choices that concern nothing in the file, such as a misspelt name."""
    lists = [data.get(name) for name in ("parameters", "metrics")]
    items = [item for found in lists if isinstance(found, list) for item in found]
    listed = {str(item["name"] if isinstance(item, dict) and "name" in item else item) for item in items}
    named = {*choices.skip, *choices.keys, *choices.metrics}
    for name in sorted(named - listed - data.keys() - set(top)):
        report.fault([], f"nothing in the file is called {name}")
    if choices.steps is not None and not parameters.scale and not parameters.skipped:
        report.note([], "the length of the training is not used, because no parameter is a position in the schedule")


def _checked(found: dict[str, Any], recipe: Recipe, report: Report) -> Search:
    """Returns a valid search that the tuning service accepts."""
    try:
        search = Search.model_validate(found)
        check_search(search, recipe)
        experiment(experiment_body(search, "experiment", None))
    except ValidationError as error:
        report.invalid([], error)
    except (ApiError, ValueError) as error:
        report.fault([], str(error))
    else:
        report.notes += [f"sigopt: {warning}" if not warning.startswith(TOP) else warning for warning in search.warnings()]
        return search
    report.check()
    raise AssertionError("a fault raises")
