"""Plans the tuning that serves a day: the recipe that is tried first, what is searched, and the recipe in use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from ml.advisor.advice import Advice
from ml.advisor.advise import advise
from ml.advisor.hardware import Hardware
from ml.advisor.profiles.day import profile_of
from ml.advisor.search_space import search_space
from ml.catalog.document import CatalogError
from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.recipes.edits import edited_parameters, flat, read_edits
from ml.recipes.layers import Layer, compose
from ml.recipes.recipe import Recipe, recipe_of
from ml.recipes.search import Search
from ml.recipes.stored import recipe_in_use
from ml.stages import FEATURE_PROFILES, advisor_recipes


@dataclass(frozen=True)
class Plan:
    """A tuning that is about to start.

    Attributes:
        recipe: The recipe that is tried first: advice for the window, with the values that earlier tunings found.
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
        CatalogError: The recipe, the edits or the changes are not valid.
    """
    parent = spec.previous_day(day)
    present = recipe_in_use(lake, spec, model, parent) if parent else recipe_of(spec, model)
    days = [known for known in lake.days(FEATURE_PROFILES, spec.name) if spec.first_day <= known < day]
    advice = advise(spec, model, profile_of(spec, days, lake) if days else None, hardware)
    composed = compose(spec, model, advice.layers, _tuned(lake, spec, model, parent))
    search = search_of(spec, model, replace(advice, recipe=composed.recipe), hardware.cores, changes)
    return Plan(composed.recipe, search, present, advice)


def search_of(spec: DatasetSpec, model: str, advice: Advice, cores: float, changes: Mapping[str, Any] | None = None) -> Search:
    """Return the section `sigopt` of a recipe: the advised search, with the user's edits.

    A key whose value the user has edited is not searched, unless the edits list a parameter for it.

    Raises:
        CatalogError: The section is not valid; the message names the file of the edits.
    """
    edits = read_edits(spec.models[model].edits)
    section = search_space(advice, cores=cores).section
    listed: Sequence[Mapping[str, Any]] = edits.sigopt.get("parameters", []) if edits else []
    if unnamed := [n for n, parameter in enumerate(listed) if not isinstance(parameter, Mapping) or not parameter.get("name")]:
        raise CatalogError(
            f"{edits and edits.path}: sigopt.parameters.{unnamed[0]}: expected keys with values, one of them `name`"
        )
    fixed = tuple(f"{key}." for key, value in flat(edits.values).items() if value != {}) if edits else ()
    searched = [parameter for parameter in section["parameters"] if not f"{parameter['key']}.".startswith(fixed)]
    parameters = edited_parameters(searched, listed)
    names = {parameter["name"] for parameter in parameters}
    constraints = [each for each in section["linear_constraints"] if {term["name"] for term in each["terms"]} <= names]
    edited = {key: value for key, value in (edits.sigopt.items() if edits else ()) if key != "parameters"}
    data = {**section, "parameters": parameters, "linear_constraints": constraints, **edited, **(changes or {})}
    try:
        return Search.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        below = first.get("ctx", {}).get("key")  # of the errors of `ml.catalog.strict.fault`
        where = ".".join(map(str, ("sigopt", *first["loc"], *([below] if below else []))))
        raise CatalogError(f"{edits.path if edits else spec.name}: {where}: {first['msg']}") from error


def _tuned(lake: Lake, spec: DatasetSpec, model: str, day: str | None) -> list[Layer]:
    """Return the layer of values that earlier tunings found, or none."""
    stage = advisor_recipes(model)
    tuned = lake.manifest(stage, spec.name, day).get("tuned") if day and lake.has(stage, spec.name, day) else None
    return [Layer(tuned["origin"], tuned["values"])] if tuned else []
