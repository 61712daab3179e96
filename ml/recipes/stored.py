"""The recipe of a day, as the partition `advisor_recipes/<model>/<dataset>/<day>` holds it."""

from __future__ import annotations

from pydantic import ValidationError

from ml.catalog.spec import DatasetSpec
from ml.lake import Lake, StalePartition
from ml.recipes.recipe import Recipe, recipe_of
from ml.stages import advisor_recipes, tuned_models

STARTS_FROM = "starts_from"


def start_of(lake: Lake, spec: DatasetSpec, model: str, day: str) -> tuple[str, str] | None:
    """Returns stage and day of the stored state that a day starts from.

    By default that is the model of the day before. A day whose recipe has another structure starts from the state of the
    candidate that a tuning has trained. The first day starts from nothing.

    Args:
        lake: Where recipes are stored.
        spec: The dataset.
        model: Name of the model.
        day: `YYYY-MM-DD`.

    Raises:
        StalePartition: The tuning was materialised again after the day's recipe, which belongs to its former state.
    """
    stage, parent = advisor_recipes(model), spec.previous_day(day)
    if parent is None:
        return None
    stored = lake.manifest(stage, spec.name, day).get(STARTS_FROM) if lake.has(stage, spec.name, day) else None
    if stored is None:
        return tuned_models(model), parent
    lake.require_made_from(spec.name, day, [stage, stored])
    return stored, day


def recipe_in_use(lake: Lake, spec: DatasetSpec, model: str, day: str) -> Recipe:
    """Returns the recipe that trains a day: the day's stored one, or the declared one if none is stored.

    Args:
        lake: Where recipes are stored.
        spec: The dataset.
        model: Name of the model.
        day: `YYYY-MM-DD`.

    Raises:
        StalePartition: The stored recipe was written by a version of Evergreen whose keys differ.
        CatalogError: No recipe is stored, and the declared one is not valid.
    """
    stage = advisor_recipes(model)
    if not lake.has(stage, spec.name, day):
        return recipe_of(spec, model)
    try:
        return Recipe.model_validate(lake.manifest(stage, spec.name, day)["recipe"])
    except ValidationError as error:
        raise StalePartition(
            f"{spec.name}/{stage} of {day}: the stored recipe is not valid ({error.errors()[0]['msg']}); materialise it again"
        ) from error
