"""Converts values of parameters to values of recipe keys, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import yaml

from ml.recipes.recipe import Recipe

if TYPE_CHECKING:
    from ml.recipes.search import SearchedParameter


def with_assignments(recipe: Recipe, parameters: Iterable[SearchedParameter], assignments: Mapping[str, Any]) -> Recipe:
    """Returns a recipe with the values of a suggestion.

    Args:
        recipe: The recipe.
        parameters: The parameters that are searched.
        assignments: Values by parameter. An absent parameter, whose conditions are not met, keeps the recipe's value.

    Returns:
        The validated recipe.

    Raises:
        KeyError: The recipe has no such key.
        pydantic.ValidationError: The values are not valid together.
    """
    data = recipe.model_dump(mode="json")
    for parameter in parameters:
        if parameter.name in assignments:
            _set(data, parameter.key, assignments[parameter.name])
    return Recipe.model_validate(data)


def as_category(value: Any) -> str:
    """Returns a recipe's value as the text of a category.

    Example:
        >>> as_category([128, 64]), as_category("adam"), as_category(True), as_category(0.5)
        ('128-64', 'adam', 'true', '0.5')
    """
    if isinstance(value, list | tuple):
        return "-".join(map(str, value)) or "none"
    return value if isinstance(value, str) else yaml.safe_dump(value).split("\n")[0]


def value_at(data: Any, key: str) -> Any:
    """Returns the value of a nested key such as `model.deep.0`. Raises `KeyError` with the part that does not exist."""
    for part in key.split("."):
        data = data[_index(data, part)]
    return data


def _index(data: Any, part: str) -> str | int:
    if isinstance(data, list) and part.isdigit() and int(part) < len(data):
        return int(part)
    if isinstance(data, dict) and part in data:
        return part
    raise KeyError(part)


def _set(data: Any, key: str, value: Any) -> None:
    *above, last = key.split(".")
    for part in above:
        data = data[_index(data, part)]
    index = _index(data, last)
    data[index] = _parsed(value, data[index])


def _parsed(value: Any, present: Any) -> Any:
    """Returns the recipe's value for a parameter's value; categories are text."""
    if not isinstance(value, str):
        return value
    if isinstance(present, list):
        return [] if value == "none" else [int(width) for width in value.split("-")]
    return value if isinstance(present, str) else yaml.safe_load(value)
