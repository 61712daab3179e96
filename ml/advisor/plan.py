"""Plans the tuning for a day: the recipe of the first trial, the search space, and the recipe in use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from ml.advisor.advice import Advice
from ml.advisor.advise import advise
from ml.advisor.hardware import Hardware
from ml.advisor.profiles.day import profile_of
from ml.advisor.profiles.days import days_to_profile
from ml.advisor.rules import load_rules
from ml.advisor.search_space import search_space
from ml.catalog.document import CatalogError
from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.recipes.dialects.write import experiment_body
from ml.recipes.edits import edited_parameters, explain_parameter, explain_search, flat, listed_parameters, read_edits
from ml.recipes.layers import Layer, compose
from ml.recipes.recipe import Recipe, recipe_of
from ml.recipes.search import Search, UnsuitableParameter, check_search
from ml.recipes.stored import recipe_in_use
from ml.stages import advisor_recipes
from ml.tuning.errors import ApiError
from ml.tuning.parse.experiments import experiment


@dataclass(frozen=True)
class Plan:
    """A tuning that is about to start.

    Attributes:
        recipe: The recipe that is tried first: advice for the window, unless it is only explained, with the values that
            earlier tunings found.
        search: What is searched.
        present: The recipe in use.
        advice: The advice.
    """

    recipe: Recipe
    search: Search
    present: Recipe
    advice: Advice


def plan_tuning(
    spec: DatasetSpec, model: str, day: str, lake: Lake, hardware: Hardware, changes: Mapping[str, Any] | None = None
) -> Plan:
    """Plan the tuning that serves a day.

    Args:
        spec: The dataset.
        model: Name of the model.
        day: `YYYY-MM-DD`. Only days before it are used.
        lake: Where profiles and recipes are stored.
        hardware: What a trial can use.
        changes: Keys of the section `sigopt` that take precedence over the user's edits.

    Returns:
        The plan.

    Raises:
        CatalogError: The recipe, the edits or the changes are not valid, or a parameter does not fit the recipe.
    """
    parent = spec.previous_day(day)
    present = recipe_in_use(lake, spec, model, parent) if parent else recipe_of(spec, model)
    days = days_to_profile(spec, lake, before=day)
    advice = advise(spec, model, profile_of(spec, days, lake) if days else None, hardware)
    layers = advice.layers if spec.recipe.advice == "apply" else []
    composed = compose(spec, model, layers, _tuned(lake, spec, model, parent))
    search = search_of(spec, model, replace(advice, recipe=composed.recipe), hardware.cores, changes)
    _check(spec, model, search, composed.recipe)
    return Plan(composed.recipe, search, present, advice)


def search_of(spec: DatasetSpec, model: str, advice: Advice, cores: float, changes: Mapping[str, Any] | None = None) -> Search:
    """Return the section `sigopt` of a recipe: the advised search, with the user's edits.

    A key whose value the user has edited is not searched, unless the edits list a parameter for it.

    Raises:
        CatalogError: The section is not valid, or the tuning service would refuse it; the message names the file of the edits.
    """
    edits = read_edits(spec.models[model].edits)
    section = search_space(advice, cores=cores).section
    advised = {parameter["name"] for parameter in section["parameters"]} | {rule.name for rule in load_rules().search}
    listed = listed_parameters(edits, advised)
    fixed = tuple(f"{key}." for key, value in flat(edits.values).items() if value != {}) if edits else ()
    searched = [parameter for parameter in section["parameters"] if not f"{parameter['key']}.".startswith(fixed)]
    parameters = edited_parameters(searched, listed)
    names = {parameter["name"] for parameter in parameters}
    constraints = [each for each in section["linear_constraints"] if {term["name"] for term in each["terms"]} <= names]
    edited = {key: value for key, value in (edits.sigopt.items() if edits else ()) if key != "parameters"}
    data = {**section, "parameters": parameters, "linear_constraints": constraints, **edited, **(changes or {})}
    try:
        search = Search.model_validate(data)
        experiment(experiment_body(search, model, None))
    except ApiError as error:
        raise CatalogError(f"{edits.path if edits else spec.name}: sigopt: {error.message}") from error
    except ValidationError as error:
        if edits is None:
            raise CatalogError(f"{spec.name}: {error.errors(include_url=False)[0]['msg']}") from error
        raise explain_search(edits, error, Search, [parameter["name"] for parameter in parameters]) from error
    return search


def _check(spec: DatasetSpec, model: str, search: Search, recipe: Recipe) -> None:
    """Refuse parameters that do not fit the recipe, with the file of the edits that list them."""
    try:
        check_search(search, recipe)
    except UnsuitableParameter as error:
        edits = read_edits(spec.models[model].edits)
        if edits is None:
            raise CatalogError(f"{spec.name}/{model}: {error}") from error
        raise explain_parameter(edits, error.name, error.key, error.problem) from error


def _tuned(lake: Lake, spec: DatasetSpec, model: str, day: str | None) -> list[Layer]:
    """Return the layer of values that earlier tunings found, or none."""
    stage = advisor_recipes(model)
    tuned = lake.manifest(stage, spec.name, day).get("tuned") if day and lake.has(stage, spec.name, day) else None
    return [Layer(tuned["origin"], tuned["values"])] if tuned else []
