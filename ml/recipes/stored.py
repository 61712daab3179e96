"""The recipe of a day, as the partition `advisor_recipes/<model>/<dataset>/<day>` holds it."""

from __future__ import annotations

from pydantic import ValidationError

from ml.catalog.spec import DatasetSpec
from ml.lake import Lake, StalePartition
from ml.recipes.recipe import Recipe, recipe_of
from ml.stages import advisor_recipes


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
