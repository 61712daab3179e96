"""Catalog keys of the models of a dataset: the recipe of each, and changes to the recipes. Declarations only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr

from ml.catalog.strict import Strict

ModelName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class RecipeOfAll(Strict):
    """Changes to the recipes of all models of a dataset."""

    overrides: dict[str, Any] = Field(default={}, description="Recipe keys with their new values, nested as in the recipe.")
    advice: Literal["apply", "explain"] = Field(
        default="apply",
        description="Whether the advisor's values apply to keys that neither the entry nor a file of edits sets, or are "
        "only explained beside the recipe.",
    )
    rules: tuple[str, ...] = Field(
        default=(),
        description="Your own [rule files](advisor.md#rule-files) for the advisor, such as `rules/ours.yaml`, applied in order "
        "after the built-in rules. Paths are relative to the entry's folder.",
    )
    _folder: Path = PrivateAttr(default=Path())

    @property
    def rule_files(self) -> tuple[Path, ...]:
        """The files of `rules`."""
        return tuple(self._folder / name for name in self.rules)

    def found_in(self, folder: Path) -> Self:
        """Returns a copy that knows the folder of the entry."""
        found = self.model_copy()
        found._folder = folder
        return found


class ModelChoice(Strict):
    """The recipe that trains a model, and changes to it."""

    recipe: str | None = Field(
        default=None,
        pattern=r"^[\w-]+$",
        description="Name of a recipe: built-in, or a file in `recipes/` next to the entry. By default, the model's name.",
    )
    overrides: dict[str, Any] = Field(default={}, description="Recipe keys with their new values, nested as in the recipe.")
    serve: Literal["daily", "online"] = Field(
        default="daily",
        description="Which state is exported and promoted: the state of the `daily` training, or of the `online` training, "
        "which then also runs every day. With `daily`, online training runs on request.",
    )
    _folder: Path | None = PrivateAttr(default=None)
    _edits: Path | None = PrivateAttr(default=None)

    @property
    def folder(self) -> Path | None:
        """Folder of the recipe, if the entry was read from a file."""
        return self._folder

    @property
    def edits(self) -> Path | None:
        """File of the edits of this model's recipe, whether or not it exists, if the entry was read from a file."""
        return self._edits

    def found_in(self, folder: Path, edits: Path) -> Self:
        """Returns a copy that knows the recipe's folder and the file of its edits."""
        found = self.model_copy()
        found._folder, found._edits = folder, edits
        return found
