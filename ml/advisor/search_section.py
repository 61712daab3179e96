"""The section `sigopt` of a recipe: the advised search with the user's edits, and where each of its values comes from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from ml.advisor.advised_search import parameters_around, search_over
from ml.advisor.rule_files import rules_of
from ml.advisor.rules import Rules
from ml.advisor.wishes import wishes_of
from ml.catalog.document import CatalogError
from ml.catalog.spec import DatasetSpec
from ml.recipes.dialects.section import SECTION
from ml.recipes.dialects.write import experiment_body
from ml.recipes.edits import Edits, edited_parameters, explain_search, flat, listed_parameters, read_edits
from ml.recipes.layers import DEFAULT, Overrode, edits_origin
from ml.recipes.recipe import Recipe
from ml.recipes.search import Search
from ml.recipes.sections import WISHES
from ml.tuning.errors import ApiError
from ml.tuning.parse.experiments import experiment

ADVISED = "advice, search"
WINDOW_KEYS = ("window_days", "scored_days", "judged_days")
NAMED = ("parameters", "metrics")  # lists of the section whose items have names


@dataclass(frozen=True)
class SearchSection:
    """The section `sigopt` of a recipe.

    Attributes:
        search: What tuning searches.
        origins: Origins by key. Items of lists have their names as keys, as in `sigopt.parameters.dense_lr.bounds.min`.
        overrode: Advised values that the user's edits replaced. An advised parameter that is not searched is one value.
    """

    search: Search
    origins: Mapping[str, str]
    overrode: tuple[Overrode, ...] = ()


def search_section(
    spec: DatasetSpec,
    model: str,
    recipe: Recipe,
    rows: float | None,
    cores: float = 1.0,
    changes: Mapping[str, Any] | None = None,
) -> SearchSection:
    """Return the section `sigopt` of a recipe: the advised search around it, with the user's edits.

    A key whose value the user has edited is not searched, unless the edits list a parameter for it. Wishes for time and
    target are thresholds.

    Args:
        spec: The dataset.
        model: Name of the model.
        recipe: The recipe that is tried first.
        rows: Rows of a day; None if they are not known.
        cores: Number of cores for trials, each of which uses one.
        changes: Keys of the section that take precedence over the edits.

    Raises:
        CatalogError: The section is not valid, or the tuning service would refuse it; the message names the file of the edits.
            Or a rule file of the catalog entry is not valid.
    """
    edits = read_edits(spec.models[model].edits)
    wishes = wishes_of(spec, model)
    edited = {key: value for key, value in (edits.sigopt.items() if edits else ()) if key != "parameters"} | dict(changes or {})
    rules = rules_of(spec)
    every = parameters_around(recipe, rows, rules)
    fixed = _keys(every) - _keys(_parameters(edits, recipe, every, rules)[0])
    around = parameters_around(recipe, rows, rules, fixed)
    parameters, listed = _parameters(edits, recipe, around, rules)
    advised = search_over(around, wishes, cores, _days_trained(edited)).section
    names = {parameter["name"] for parameter in parameters}
    constraints = [each for each in advised["linear_constraints"] if {term["name"] for term in each["terms"]} <= names]
    data = {**advised, "parameters": parameters, "linear_constraints": constraints, **edited}
    search = _validated(spec, model, edits, data)
    unwished = search_over(around, cores=cores).section
    origins = _origins(search, advised, unwished, edits, edited | {"parameters": listed})
    return SearchSection(search, origins, tuple(_overrode(advised, search)))


def _keys(parameters: Iterable[Mapping[str, Any]]) -> set[str]:
    return {parameter["key"] for parameter in parameters if "key" in parameter}


def _origins(
    search: Search, advised: Mapping[str, Any], unwished: Mapping[str, Any], edits: Edits | None, edited: Mapping[str, Any]
) -> dict[str, str]:
    """Return the origin of each value of a search.

    Args:
        search: The search.
        advised: The advised section.
        unwished: The section that would be advised without the user's wishes.
        edits: The user's edits; None for none.
        edited: The keys of the section that they set.
    """
    of_edits, unwished = by_name(edited), by_name(unwished)
    kept = by_name({key: value for key, value in advised.items() if key == "parameters" or key not in edited})
    origins = {}
    for key, value in by_name(search.section).items():
        origins[key] = DEFAULT
        if edits and key in of_edits:
            origins[key] = edits_origin(edits)
        elif kept.get(key) == value:
            origins[key] = ADVISED if unwished.get(key) == value or not edits else f"{edits_origin(edits)}, {WISHES}"
    return origins


def _days_trained(edited: Mapping[str, Any]) -> int | None:
    """Return the number of days that a trial trains on, None if the edits of the window are not valid."""
    try:
        return Search.model_validate({key: edited[key] for key in WINDOW_KEYS if key in edited}).days_trained
    except ValidationError:  # the validation of the whole section names the key
        return None


def by_name(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a section by key, with the names of parameters and metrics in place of their positions.

    Example:
        >>> by_name({"observation_budget": 3, "metrics": [{"name": "auc", "threshold": 0.7}]})
        {'sigopt.observation_budget': 3, 'sigopt.metrics.auc.threshold': 0.7}
    """
    named = {
        name: {one["name"]: {key: value for key, value in one.items() if key != "name"} for one in section[name]}
        for name in NAMED
        if name in section
    }
    return {key: value for key, value in flat({SECTION: {**section, **named}}).items() if value not in ({}, [])}


def _parameters(
    edits: Edits | None, recipe: Recipe, advised: Sequence[dict[str, Any]], rules: Rules
) -> tuple[list[dict[str, Any]], list[Mapping[str, Any]]]:
    """Return the parameters with the edits, and the edits of those that are searched.

    Edits of a parameter that is not advised at present, such as batch sizes for very few rows, need not repeat its key.
    """
    listed = listed_parameters(edits, {parameter["name"] for parameter in advised} | {one.name for one in rules.search})
    fixed = tuple(f"{key}." for key, value in flat(edits.values).items() if value != {}) if edits else ()
    searched = [parameter for parameter in advised if not f"{parameter['key']}.".startswith(fixed)]
    known = {one.name: {"key": one.key, "type": one.parameter_type} for one in rules.searched(recipe.model.kind)}
    changed = [one for one in listed if not one.get("remove")]
    missing = {one["name"] for one in changed} - {parameter["name"] for parameter in searched}
    searched += [{"name": name, **known[name]} for name in sorted(missing & known.keys())]
    return edited_parameters(searched, listed), changed


def _validated(spec: DatasetSpec, model: str, edits: Edits | None, data: Mapping[str, Any]) -> Search:
    """Return the search of a section. Raises `CatalogError` with the path of the key in the file of the edits."""
    try:
        search = Search.model_validate(data)
        if search.parameters:  # without any, only tuning is refused
            experiment(experiment_body(search, model, None))
    except ApiError as error:
        raise CatalogError(f"{edits.path if edits else spec.name}: {SECTION}: {error.message}") from error
    except ValidationError as error:
        if edits is None:
            raise CatalogError(f"{spec.name}: {error.errors(include_url=False)[0]['msg']}") from error
        raise explain_search(edits, error, Search, [parameter["name"] for parameter in data["parameters"]]) from error
    return search


def _overrode(advised: Mapping[str, Any], search: Search) -> Iterator[Overrode]:
    """Yield the advised values that are not searched."""
    final, names = by_name(search.section), {parameter.name for parameter in search.parameters}
    for parameter in advised["parameters"]:
        if parameter["name"] not in names:
            yield Overrode(f"{SECTION}.parameters.{parameter['name']}", parameter, ADVISED, None)
    searched = [parameter for parameter in advised["parameters"] if parameter["name"] in names]
    for key, value in by_name({**advised, "parameters": searched}).items():
        if final.get(key) != value:
            yield Overrode(key, value, ADVISED, final.get(key))
