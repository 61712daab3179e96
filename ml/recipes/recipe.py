"""How to train: the pydantic `Recipe` behind `catalog/recipes/*.yaml`, and loading one with a dataset's overrides.

A recipe names numbers only; what they do lives in `ml.models`, `ml.embeddings` and `ml.training.loop`. Every key is used
somewhere, and a key that is not known is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from ml.catalog.load import CATALOG, CatalogError, explain, read_yaml
from ml.catalog.spec import DatasetSpec
from ml.catalog.strict import Strict
from ml.embeddings.fixed.partitions import widths_of
from ml.recipes.export import ExportRecipe
from ml.recipes.models import ModelRecipe, TwoTowerRecipe
from ml.recipes.optimizers import DenseOptimizer, Schedule, TableOptimizer
from ml.recipes.tables import PARTED, CollisionlessTable, CompositionalTable, Table, TablesRecipe

RECIPES = CATALOG / "recipes"
Split = Literal["train", "validation", "test"]


class EarlyStop(Strict):
    """A target on the day's validation split, and how often it is looked at."""

    metric: Literal["auc", "log_loss"] = "auc"
    target: float = Field(gt=0, description="At least so much AUC, or at most so much log loss.")
    every: float = Field(default=0.1, gt=0, le=1, description="Looks, in shares of the pass.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.metric == "auc" and self.target > 1:
            raise ValueError(f"target: no AUC is above 1, found {self.target}")
        return self

    def reached(self, value: float | None) -> bool:
        """Whether that is good enough; what is undefined is not."""
        if value is None:
            return False
        return value >= self.target if self.metric == "auc" else value <= self.target


class CheckpointRecipe(Strict):
    """How much work a kill may cost, and how much of a day's way is kept until the day is written."""

    minutes: float = Field(default=5.0, gt=0, description="Between two checkpoints.")
    keep: int = Field(default=2, ge=2, description="So many of a day: where the newest can not be read, there is one before.")
    hours: float = Field(default=48.0, gt=0, description="No older than that, of whatever day.")


class Recipe(Strict):
    """Everything that decides how a day's model is trained. `fingerprint` names it in manifests."""

    model: ModelRecipe
    tables: TablesRecipe
    table_optimizer: TableOptimizer
    dense_optimizer: DenseOptimizer
    batch_size: int = Field(ge=1)
    schedule: Schedule = Schedule()
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="Of the dense part's products; weights, tables and sums stay float32."
    )
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5, description="How far labels are moved towards a half.")
    sampling_correction: bool = Field(
        default=False,
        description="Learn the odds before unclicked rows were sampled: logits are taken less the log of `sample_rate`.",
    )
    early_stop: EarlyStop | None = Field(default=None, description="End a pass early, once it is good enough.")
    splits: tuple[Split, ...] = Field(
        default=("train", "validation", "test"),
        min_length=1,
        description="Splits of the day that are trained on. All of them: the report scores the next day.",
    )
    exclude_features: tuple[str, ...] = Field(default=(), description="Sparse features that the model does not look at.")
    embeddings: Literal["sharded", "independent"] = Field(
        default="sharded",
        description="Processes that train together share out the rows of collisionless tables; or each learns them for itself "
        "on its own examples, dense layers are kept alike, and rows become one at the end of the day.",
    )
    seed: int = Field(default=0, ge=0)
    threads: int = Field(default=1, ge=1, description="Of torch. Sums depend on it, so it belongs to what is reproduced.")
    checkpoints: CheckpointRecipe = CheckpointRecipe()
    export: ExportRecipe = ExportRecipe()

    @property
    def fingerprint(self) -> str:
        """Hash of everything that the trained model depends on."""
        shaped = self.model_dump(mode="json", exclude={"checkpoints", "export"})
        return hashlib.sha256(json.dumps(shaped, sort_keys=True).encode()).hexdigest()[:16]

    def structure(self, sparse: Iterable[str]) -> dict[str, Any]:
        """What fixes the shapes of the state over these sparse features: a snapshot can be trained on only where this is the
        same."""
        shaping = {"table_optimizer": {"kind"}, "dense_optimizer": {"kind"}}
        tables = {feature: _shape(self.tables.of(feature)) for feature in sparse}
        fixed = {"model": self.model.shape, "tables": tables, "exclude_features": sorted(self.exclude_features)}
        return self.model_dump(mode="json", include=shaping) | fixed

    @model_validator(mode="after")
    def _check(self) -> Self:
        fixed = {name: table.kind for name, table in self.tables.features.items() if table.kind != "collisionless"}
        fixed |= {} if self.tables.default.kind == "collisionless" else {"default": self.tables.default.kind}
        if fixed and self.table_optimizer.kind != "rowwise_adagrad":
            raise ValueError(
                f"table_optimizer.kind {self.table_optimizer.kind} is for collisionless tables only, found {fixed}"
            )
        for name, table in {"default": self.tables.default, **self.tables.features}.items():
            if isinstance(table, CompositionalTable):
                widths_of(name, self.model.embedding_dim, table.partitions, table.operation, table.dim)
        if self.early_stop and "validation" in self.splits:
            raise ValueError("early_stop looks at the split `validation`, which is among the splits trained on")
        if isinstance(self.model, TwoTowerRecipe):
            rowwise = [name for name in ("sampling_correction", "label_smoothing") if getattr(self, name)]
            if rowwise and self.model.loss == "softmax":
                raise ValueError(
                    f"{rowwise}: of clicked or not row by row; two_tower's `loss: softmax` learns from clicks alone"
                )
            if not self.tables.init_scale:
                raise ValueError("tables.init_scale: two_tower compares directions, which vectors of zeros have none of")
        return self


def _shape(table: Table) -> dict[str, Any]:
    """What fixes a table's tensors, and what they mean: of one that grows, its kind, and how it counts what waits."""
    if isinstance(table, CollisionlessTable):
        return table.model_dump(mode="json", include={"kind", "filter"})
    unused = {"parts"} if isinstance(table, CompositionalTable) and table.family not in PARTED else None
    return table.model_dump(mode="json", exclude=unused)


def load_recipe(name: str, overrides: Mapping[str, Any] | None = None, folder: Path = RECIPES) -> Recipe:
    """The recipe `<folder>/<name>.yaml`, with `overrides` merged into it key by key.

    A file that `extends` another, of its folder or a built-in one, says only what differs from it; the `model` section it says
    whole. Raises `CatalogError` that names the file and the key path; a fault in the overrides begins with `recipe.overrides`,
    where a dataset's YAML holds them.
    """
    path = folder / f"{name}.yaml"
    data = _read(path)
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        raise explain(path, error) from error
    if not overrides:
        return recipe
    try:
        return Recipe.model_validate(merge(data, overrides))
    except ValidationError as error:
        lines = str(explain(path, error)).replace(f"{path}: ", f"recipe.overrides (on {path}): ")
        raise CatalogError(lines) from error


def recipe_of(spec: DatasetSpec, model: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of one of the dataset's models, with what differs for all of them, then for this one, then `overrides`.

    Raises `CatalogError`, also where the dataset names no such model.
    """
    if model not in spec.models:
        raise CatalogError(f"{spec.name} has no model {model!r}; its models are {list(spec.models)}")
    choice = spec.models[model]
    changed = merge(merge(spec.recipe.overrides, choice.overrides), overrides or {})
    return load_recipe(choice.recipe or model, changed, choice.folder or RECIPES)


def _read(path: Path, extended: tuple[Path, ...] = ()) -> dict[str, Any]:
    if not path.is_file():
        known = sorted({p.stem for folder in (path.parent, RECIPES) for p in folder.glob("*.yaml")})
        said = f"{extended[-1]}: extends: " if extended else ""
        raise CatalogError(f"{said}{path}: no such recipe; the recipes are {known}")
    if path in extended:
        raise CatalogError(f"{path}: extends: goes round in a circle, over {[p.stem for p in extended]}")
    data = read_yaml(path)
    base = data.pop("extends", None)
    if base is None:
        return data
    if not isinstance(base, str):
        raise CatalogError(f"{path}: extends: expected the name of a recipe, found {base!r}")
    places = [folder / f"{base}.yaml" for folder in (path.parent, RECIPES)]
    below = _read(next((place for place in places if place.is_file() and place != path), places[0]), (*extended, path))
    return merge(below, data) | ({"model": data["model"]} if "model" in data else {})


def merge(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `overrides` in place of its own; mappings are merged, everything else is replaced."""
    merged = dict(base)
    for key, value in overrides.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged
