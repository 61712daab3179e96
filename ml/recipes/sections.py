"""A recipe in three sections, as people read and edit it: `model`, `training`, and `sigopt`.

`ml.recipes.recipe.Recipe` is flat. Here the section `model` holds the model with its tables, `training` all other keys, and
`sigopt` what tuning searches (`ml.recipes.search`). A key has the same name in both forms: `training.batch_size` is the
recipe's `batch_size`, and `model.tables.init_scale` its `tables.init_scale`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SECTIONS = ("model", "training", "sigopt")
WISHES = "wishes"  # a further section of edits, which is for the advisor (`ml.recipes.wishes`)
_IN_MODEL = ("tables", "exclude_features")  # keys of the recipe that are in the section `model`, beside the model's own


def to_sections(recipe: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Divides a flat recipe, as `Recipe.model_dump` returns it, into the sections `model` and `training`.

    Example:
        >>> to_sections({"model": {"kind": "dlrm"}, "tables": {"init_scale": 0.1}, "batch_size": 256})
        {'model': {'kind': 'dlrm', 'tables': {'init_scale': 0.1}}, 'training': {'batch_size': 256}}
    """
    model = {**recipe.get("model", {}), **{key: recipe[key] for key in _IN_MODEL if key in recipe}}
    training = {key: value for key, value in recipe.items() if key != "model" and key not in _IN_MODEL}
    return {name: section for name, section in (("model", model), ("training", training)) if section}


def from_sections(sections: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Joins the sections `model` and `training` into a flat recipe; the inverse of `to_sections`."""
    model = dict(sections.get("model", {}))
    moved = {key: model.pop(key) for key in _IN_MODEL if key in model}
    return ({"model": model} if model else {}) | moved | dict(sections.get("training", {}))


def in_sections(keys: Sequence[str | int]) -> list[str | int]:
    """Returns the path of a recipe's key within the sections.

    Example:
        >>> in_sections(["batch_size"]), in_sections(["tables", "init_scale"]), in_sections(["model", "top", 0])
        (['training', 'batch_size'], ['model', 'tables', 'init_scale'], ['model', 'top', 0])
    """
    if not keys or keys[0] == "model":
        return list(keys)
    return ["model" if keys[0] in _IN_MODEL else "training", *keys]
