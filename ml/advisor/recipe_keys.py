"""The keys that recipes can have, for checking the keys that rules name."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel

from ml.recipes.recipe import Recipe
from ml.recipes.tables import Table


def of_recipe(key: str) -> bool:
    """Whether a dotted key, such as `model.top`, is a key of some recipe.

    Example:
        >>> of_recipe("model.top"), of_recipe("dense_optimizer.rate")
        (True, False)
    """
    return _has((Recipe,), key.split("."))


def of_table(key: str) -> bool:
    """Whether a key, such as `rows`, is a key of some kind of table."""
    return any(key in kind.model_fields for kind in get_args(Table))


def _has(models: tuple[type[BaseModel], ...], parts: list[str]) -> bool:
    fields = [model.model_fields[parts[0]] for model in models if parts[0] in model.model_fields]
    if not fields or len(parts) == 1:
        return bool(fields)
    return _has(tuple(model for field in fields for model in _models_in(field.annotation)), parts[1:])


def _models_in(annotation: Any) -> tuple[type[BaseModel], ...]:
    """Return the pydantic models in an annotation such as `A | B | None` or `Annotated[A, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return (annotation,)
    return tuple(model for inner in get_args(annotation) for model in _models_in(inner))
