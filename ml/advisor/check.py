"""Checks the recipes of a dataset in all their sections before anything runs: recipe files, overrides and the user's edits."""

from __future__ import annotations

from collections.abc import Iterator

from ml.advisor.rules import rules_of
from ml.advisor.search_section import check_section, search_section
from ml.catalog.document import CatalogError
from ml.catalog.spec import DatasetSpec
from ml.preflight.finding import Finding
from ml.recipes.recipe import recipe_of


def check_recipes(spec: DatasetSpec) -> list[Finding]:
    """Check the recipe of each of a dataset's models, as far as it does not depend on data.

    Args:
        spec: The dataset.

    Returns:
        An error for each wrong key, also of a rule file, with its file, path and line; and a warning for each searched
        parameter whose values do not contain the recipe's own, because advice or a tuning can still change that value.
    """
    try:
        rules_of(spec)
    except CatalogError as error:
        return [Finding("error", "recipe.rules", line, "correct the file") for line in str(error).splitlines()]
    return [finding for model in spec.models for finding in _check(spec, model)]


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
