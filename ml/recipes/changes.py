"""Finds out which trained days a recipe differs from. A change of recipe alone does not make days due."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.recipes.edits import flat
from ml.recipes.recipe import Recipe, recipe_of
from ml.stages import advisor_recipes, tuned_models

NAMED = 5


@dataclass(frozen=True)
class RecipeChange:
    """How the recipe of a model differs from the recipe that trained some days.

    Attributes:
        model: Name of the model.
        days: The days, in order.
        keys: Recipe keys with other values.
        from_scratch: Whether the model's shapes differ, so that training has to begin with the first day.
    """

    model: str
    days: tuple[str, ...]
    keys: tuple[str, ...]
    from_scratch: bool

    def command(self, spec: DatasetSpec, last: str) -> str:
        """The command that trains the days until `last` again."""
        first = spec.partitions.start.isoformat() if self.from_scratch else self.days[0]
        return f".venv/bin/python -m orchestration.replay {spec.name} --from {first} --to {last} --redo"

    def describe(self, spec: DatasetSpec, last: str) -> str:
        """Says what differs, and how to train again."""
        named = ", ".join(self.keys[:NAMED]) + (", ..." if len(self.keys) > NAMED else "")
        count = f"{len(self.days)} day{'s' if len(self.days) > 1 else ''}"
        return (
            f"The recipe of {self.model} differs from the one that trained {count} ({named}). To train with it: "
            f"{self.command(spec, last)}"
        )


def recipe_changes(spec: DatasetSpec, days: Iterable[str], lake: Lake) -> list[RecipeChange]:
    """Compares the present recipes with those that trained some days.

    Args:
        spec: The dataset.
        days: Partition keys. Days that are not in the lake are ignored.
        lake: Where the trained days are stored.

    Returns:
        One change per model whose recipe differs, apart from `checkpoints`.
    """
    days, found = sorted(days), []
    for model in spec.models:
        recipe, stage = recipe_of(spec, model), tuned_models(model)
        now = recipe.model_dump(mode="json")
        differing: list[str] = []
        keys: set[str] = set()
        from_scratch = False
        for day in (day for day in days if lake.has(stage, spec.name, day)):
            trained = _declared(lake, spec, model, day)
            if changed := _differences(trained, now):
                differing.append(day)
                keys |= changed
                from_scratch = from_scratch or _shapes_differ(recipe, trained, spec)
        if differing:
            found.append(RecipeChange(model, tuple(differing), tuple(sorted(keys)), from_scratch))
    return found


def _declared(lake: Lake, spec: DatasetSpec, model: str, day: str) -> dict[str, Any]:
    """What a user had declared when the day was trained; without a stored recipe, the recipe that trained it."""
    stage = advisor_recipes(model)
    if lake.has(stage, spec.name, day):
        return lake.manifest(stage, spec.name, day)["declared"]
    return lake.manifest(tuned_models(model), spec.name, day).get("recipe", {})


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> set[str]:
    """Keys with different values, joined by dots, apart from `checkpoints`. A key that is absent has the value null."""
    one, other = (flat({key: part for key, part in recipe.items() if key != "checkpoints"}) for recipe in (before, now))
    return {key for key in {*one, *other} if one.get(key) != other.get(key)}


def _shapes_differ(recipe: Recipe, trained: Mapping[str, Any], spec: DatasetSpec) -> bool:
    sparse = [feature.name for feature in spec.sparse]
    try:
        return Recipe.model_validate(trained).structure(sparse) != recipe.structure(sparse)
    except ValidationError:  # a recipe of an earlier version
        return True
