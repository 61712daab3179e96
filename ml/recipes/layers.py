"""Composes a recipe from layers, and records where each value comes from and which values a user's edits replaced.

The layers of a day's recipe, each of which takes precedence over those before it: the recipe file, the advisor's advice, the
overrides of the catalog entry, tuned values, and the user's edits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ml.catalog.expand import expand_recipe
from ml.catalog.spec import DatasetSpec
from ml.recipes.edits import Edits, flat, nested, patch, read_edits
from ml.recipes.recipe import RECIPES, Recipe, read_recipe, recipe_of

DEFAULT = "default"


@dataclass(frozen=True)
class Layer:
    """Recipe keys with values.

    Attributes:
        origin: Where the values come from, for people.
        values: The keys, nested as in `Recipe`; None removes one.
    """

    origin: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Overrode:
    """A value that a later layer replaced.

    Attributes:
        key: The recipe key.
        value: The replaced value.
        origin: Where the replaced value came from.
        by: The value in its place.
    """

    key: str
    value: Any
    origin: str
    by: Any


@dataclass(frozen=True)
class Composed:
    """A recipe, and the origin of each of its values.

    Attributes:
        recipe: The recipe.
        origins: Origins by key, keys joined by dots.
        overrode: Values of other layers that the last layer, the edits, replaced.
    """

    recipe: Recipe
    origins: Mapping[str, str]
    overrode: tuple[Overrode, ...] = ()


def file_layer(spec: DatasetSpec, model: str) -> Layer:
    """Returns the layer of a model's recipe file."""
    choice = spec.models[model]
    name = choice.recipe or model
    return Layer(f"recipe {name}", read_recipe((choice.folder or RECIPES) / f"{name}.yaml"))


def entry_layers(spec: DatasetSpec, model: str) -> list[Layer]:
    """Returns the layers of the overrides in a dataset's catalog entry."""
    layers = [
        Layer("catalog entry, recipe.overrides", spec.recipe.overrides),
        Layer(f"catalog entry, models.{model}.overrides", spec.models[model].overrides),
    ]
    return [layer for layer in layers if layer.values]


def edits_layers(spec: DatasetSpec, model: str) -> list[Layer]:
    """Returns the layer of the user's edits, or none."""
    edits = read_edits(spec.models[model].edits)
    return [Layer(edits_origin(edits), edits.values)] if edits and edits.values else []


def edits_origin(edits: Edits) -> str:
    """Returns the origin of values that a user's edits set."""
    return f"edits, {edits.path.parent.name}/{edits.path.name}"


def compose(spec: DatasetSpec, model: str, advice: Iterable[Layer] = (), tuned: Iterable[Layer] = ()) -> Composed:
    """Composes the recipe of one of a dataset's models.

    Args:
        spec: The dataset.
        model: Name of the model.
        advice: Layers of advice.
        tuned: Layers of tuned values.

    Returns:
        The recipe and its origins.

    Raises:
        CatalogError: The recipe, the catalog entry's overrides or the edits are not valid.
        pydantic.ValidationError: They are valid, but not together with the advice or the tuned values.
    """
    recipe_of(spec, model)  # explains what is wrong in the user's own files
    edits = edits_layers(spec, model)
    layers = [file_layer(spec, model), *advice, *entry_layers(spec, model), *tuned, *edits]
    data: dict[str, Any] = {}
    origins: dict[str, str] = {}
    overrode: list[Overrode] = []
    for layer in layers:
        patched = patch(data, expand_recipe(layer.values))
        before, after = flat(data), flat(patched)
        changed = {key for key in after if key not in before or before[key] != after[key]} | (flat(layer.values).keys() & after)
        if layer in edits:
            overrode = [
                Overrode(key, before[key], origins[key], after.get(key))
                for key in sorted(before)
                if before[key] != after.get(key)
            ]
        origins = {key: layer.origin if key in changed else origins[key] for key in after}
        data = patched
    recipe = Recipe.model_validate(data)
    return Composed(recipe, {key: origins.get(key, DEFAULT) for key in flat(recipe.model_dump(mode="json"))}, tuple(overrode))


@dataclass(frozen=True)
class Kept:
    """A recipe that keeps the structure of another.

    Attributes:
        recipe: The recipe.
        refused: Keys whose new values would have changed the structure, with those values; None for a key that the new recipe
            does not have.
    """

    recipe: Recipe
    refused: Mapping[str, Any] = field(default_factory=dict)


def keep_structure(recipe: Recipe, present: Recipe, sparse: Iterable[str]) -> Kept:
    """Returns a recipe without the changes that would alter the structure of the one in use.

    A model's state fits one structure (`Recipe.structure`), so a change of it cannot continue from the day before.

    Args:
        recipe: The new recipe.
        present: The recipe that trained the day before.
        sparse: The sparse features of the dataset.
    """
    sparse = list(sparse)
    wanted = present.structure(sparse)
    if recipe.structure(sparse) == wanted:
        return Kept(recipe)
    data, new = present.model_dump(mode="json"), recipe.model_dump(mode="json")
    refused: dict[str, Any] = {}
    for key in _top_keys(data, new):
        trial = {**data, key: new[key]}
        if _structure(trial, sparse) == wanted:
            data = trial
            continue
        for inner, value in flat({key: new[key]}).items():
            if flat(data).get(inner) == value:
                continue
            trial = patch(data, nested({inner: value}))
            if _structure(trial, sparse) == wanted:
                data = trial
            else:
                refused[inner] = value
        for inner in _removed({key: data[key]}, {key: new[key]}):
            trial = patch(data, nested({inner: None}))
            if _structure(trial, sparse) == wanted:
                data = trial
            else:
                refused[inner] = None
    return Kept(Recipe.model_validate(data), refused)


def _top_keys(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return [key for key in other if one.get(key) != other[key]]


def _removed(before: Mapping[str, Any], after: Mapping[str, Any], above: str = "") -> list[str]:
    """Return the keys that `after` lacks, joined by dots, without those below another.

    Keys of a mapping whose `kind` differs are not compared: they belong to the kind, which is kept or replaced as a whole.
    """
    found: list[str] = []
    for key, value in before.items():
        other = after.get(key)
        if key not in after:
            found.append(f"{above}{key}")
        elif isinstance(value, Mapping) and isinstance(other, Mapping) and value.get("kind") == other.get("kind"):
            found += _removed(value, other, f"{above}{key}.")
    return found


def _structure(data: Mapping[str, Any], sparse: list[str]) -> Any:
    try:
        return Recipe.model_validate(data).structure(sparse)
    except ValueError:
        return None
