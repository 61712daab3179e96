"""Checks the sections of recipes before anything runs, and the searched parameters against the recipe of a day."""

from __future__ import annotations

from collections.abc import Iterator

from ml.advisor.draft import FEATURES, value_at
from ml.advisor.recipe_keys import of_recipe, of_table
from ml.advisor.rule_files import rules_of
from ml.advisor.search_section import search_section
from ml.catalog.document import CatalogError
from ml.catalog.spec import DatasetSpec
from ml.preflight.finding import Finding
from ml.recipes.edits import explain_parameter, read_edits
from ml.recipes.recipe import Recipe, recipe_of
from ml.recipes.search import OutsideValues, Search, UnknownKey, unsuitable_parameters


def check_recipes(spec: DatasetSpec) -> list[Finding]:
    """Check the recipe of each of a dataset's models, as far as it does not depend on data.

    Args:
        spec: The dataset.

    Returns:
        An error for each wrong key in a recipe or a rule file, with its file, path and line; and a warning for each searched
        parameter whose values do not contain the recipe's own, because advice or a tuning can still change that value.
    """
    try:
        rules_of(spec)
    except CatalogError as error:
        return [Finding("error", "recipe.rules", line, "correct the file") for line in str(error).splitlines()]
    return [finding for model in spec.models for finding in _check(spec, model)]


def check_section(
    spec: DatasetSpec, model: str, search: Search, recipe: Recipe, *, declared: bool = False, strict: bool = False
) -> list[str]:
    """Check that the searched parameters fit a recipe.

    Args:
        spec: The dataset.
        model: Name of the model.
        search: What is searched.
        recipe: The recipe.
        declared: Whether the recipe is the declared one. Advice can then still add keys, of tables and of parts that are not
            set, so parameters for such keys are not judged.
        strict: Whether the recipe's own value has to be among the values that are searched, as tuning requires.

    Returns:
        A line for each parameter whose values do not contain the recipe's own, or whose key is not in the recipe on this day.

    Raises:
        CatalogError: A parameter does not fit the recipe; the message names the file of the edits and the key.
    """
    edits = read_edits(spec.models[model].edits)
    warnings = []
    for error in unsuitable_parameters(search, recipe):
        can_be_added = not strict and isinstance(error, UnknownKey) and _can_be_added(error.recipe_key, recipe, spec)
        if declared and can_be_added:
            continue
        refusal = (
            CatalogError(f"{spec.name}/{model}: {error}")
            if edits is None
            else explain_parameter(edits, error.name, error.key, error.problem)
        )
        if strict or not (can_be_added or isinstance(error, OutsideValues)):
            raise refusal from error
        warnings.append(str(refusal))
    return warnings


def _check(spec: DatasetSpec, model: str) -> Iterator[Finding]:
    key = f"models.{model}"
    try:
        recipe = recipe_of(spec, model)
        section = search_section(spec, model, recipe, rows=None)
        for warning in check_section(spec, model, section.search, recipe, declared=True):
            yield Finding("warning", key, warning, "tuning refuses it unless advice or an earlier tuning changes the value")
    except CatalogError as error:
        for line in str(error).splitlines():
            yield Finding("error", key, line, "correct the file")


def _can_be_added(key: str, recipe: Recipe, spec: DatasetSpec) -> bool:
    """Whether a key that a recipe lacks is one of a feature's table, or of a part that is not set."""
    known = recipe.model_dump(mode="json")
    above = key.split(".")[:-1]
    tables = {f"{FEATURES}.{feature.name}" for feature in spec.sparse}
    return (".".join(above) in tables and of_table(key.rsplit(".", 1)[1])) or any(
        value_at(known, ".".join(above[: n + 1])) is None and of_recipe(key) for n in range(len(above))
    )
