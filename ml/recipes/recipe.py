"""Recipes: the pydantic model of all settings that define how a model is trained, and the loading of recipes from files.

A recipe only declares; `ml.models`, `ml.embeddings` and `ml.training` implement it. Unknown keys are refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from ml.catalog.expand import expand_recipe
from ml.catalog.load import CATALOG, CatalogError, explain, read_yaml
from ml.catalog.spec import DatasetSpec
from ml.catalog.strict import FloatOrText, IntOrText, Strict
from ml.embeddings.fixed.partitions import widths_of
from ml.recipes.edits import Edits, check_removals, explain_edits, patch, read_edits
from ml.recipes.export import ExportRecipe
from ml.recipes.models import ModelRecipe, TwoTowerRecipe
from ml.recipes.online import OnlineRecipe
from ml.recipes.optimizers import DenseOptimizer, Schedule, TableOptimizer
from ml.recipes.sampling import Correction, NegativeSampling, SamplingCorrection, correction_of
from ml.recipes.tables import PARTED, CollisionlessTable, CompositionalTable, Table, TablesRecipe

RECIPES = CATALOG / "recipes"
Split = Literal["train", "validation", "test"]
AFTER_TRAINING = frozenset({"checkpoints", "export", "online"})
"""Keys of a recipe that the daily trained model does not depend on."""


class EarlyStop(Strict):
    """Ends training of a day when a metric on the day's validation split reaches a target."""

    metric: Literal["auc", "log_loss"] = Field(default="auc", description="The metric.")
    target: FloatOrText = Field(gt=0, description="Smallest AUC, or largest log loss, that ends training.")
    every: FloatOrText = Field(default=0.1, gt=0, le=1, description="How often to evaluate, as a fraction of the pass.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.metric == "auc" and self.target > 1:
            raise ValueError(f"target: expected an AUC of at most 1, found {self.target}")
        return self

    def reached(self, value: float | None) -> bool:
        """Whether a value of the metric reaches the target; an undefined value (None) does not."""
        if value is None:
            return False
        return value >= self.target if self.metric == "auc" else value <= self.target


class CheckpointRecipe(Strict):
    """How often training is checkpointed within a day, and which checkpoints are kept until the day is written."""

    minutes: FloatOrText = Field(default=5.0, gt=0, description="Minutes between two checkpoints.")
    keep: IntOrText = Field(
        default=2,
        ge=2,
        description="Number of checkpoints of a day to keep. If the newest cannot be read, training resumes at the previous "
        "one.",
    )
    hours: FloatOrText = Field(
        default=48.0, gt=0, description="Checkpoints of any day that are older than this many hours are deleted."
    )


class Recipe(Strict):
    """How a model is trained. Manifests identify a recipe by its `fingerprint`.

    Example:
        >>> recipe = load_recipe("dlrm", {"batch_size": 512})
        >>> recipe.model.kind, recipe.batch_size, recipe.tables.of("item").kind
        ('dlrm', 512, 'collisionless')
    """

    model: ModelRecipe = Field(description="The model and its sizes.")
    tables: TablesRecipe = Field(description="The embedding tables.")
    table_optimizer: TableOptimizer = Field(description="Optimizer of embedding tables.")
    dense_optimizer: DenseOptimizer = Field(description="Optimizer of dense parameters.")
    batch_size: IntOrText = Field(ge=1, le=2**20, description="Examples per step, over all processes.")
    schedule: Schedule = Field(default=Schedule(), description="Schedule of the learning rates.")
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="Precision of matrix products of the dense part; weights, tables and sums are float32."
    )
    label_smoothing: FloatOrText = Field(default=0.0, ge=0, lt=0.5, description="How far labels are moved towards 1/2.")
    loss_weights: dict[str, Annotated[FloatOrText, Field(ge=0)]] | None = Field(
        default=None,
        description="Weight of each further label of the dataset (`labels`) in the loss, such as `{bought: 0.5}`; 1 by "
        "default. The main label has the weight 1.",
    )
    negative_sampling: NegativeSampling | None = Field(
        default=None, description="Trains on a sample of the unclicked rows; by default on all of them."
    )
    sampling_correction: SamplingCorrection | None = Field(
        default=None,
        description="Makes the model predict clicks of the full log rather than of the down-sampled data. `loss` computes the "
        "loss on `logit - log(sample_rate)`; `weights` divides the loss of unclicked rows by `sample_rate`; `serving` adds "
        "`log(keep)` of a constant `negative_sampling` to predictions. By default `loss` with `negative_sampling`, otherwise "
        "`none`. `true` means `loss`, and `false` means `none`.",
    )
    fake_negative_weights: bool = Field(
        default=False,
        description="Whether rows are trained on before it is known whether they are clicked, and again as clicked rows when "
        "they are. Losses are then weighted so that the model predicts the final clicks (Ktena et al., 2019).",
    )
    early_stop: EarlyStop | None = Field(default=None, description="When to end training of a day early; never by default.")
    splits: tuple[Split, ...] = Field(
        default=("train", "validation", "test"),
        min_length=1,
        description="Splits of the day to train on. By default all, because models are evaluated on the next day.",
    )
    exclude_features: tuple[str, ...] = Field(
        default=(), description="Sparse features that the model does not use; ranges such as `C{1..3}` are allowed."
    )
    embeddings: Literal["sharded", "independent"] = Field(
        default="sharded",
        description="With several processes: `sharded` assigns each row of a collisionless table to one process. `independent` "
        "lets each process train its own tables on its own examples, with synchronised dense layers, and merges the rows at "
        "the end of the day.",
    )
    seed: IntOrText = Field(default=0, ge=0, description="Seed of initialisation and of random draws.")
    threads: IntOrText = Field(
        default=1,
        ge=1,
        description="Number of torch threads. It determines the order of sums, so training is reproducible only with the same "
        "number.",
    )
    checkpoints: CheckpointRecipe = Field(default=CheckpointRecipe(), description="Checkpoints within a day.")
    export: ExportRecipe = Field(default=ExportRecipe(), description="How a trained model is exported.")
    online: OnlineRecipe = Field(default=OnlineRecipe(), description="How training continues within the day.")

    @property
    def fingerprint(self) -> str:
        """Hash of all keys that the trained model depends on."""
        shaped = self.model_dump(mode="json", exclude=set(AFTER_TRAINING))
        return hashlib.sha256(json.dumps(shaped, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def correction(self) -> Correction:
        """How the model's logits become comparable with the labels of rows."""
        return correction_of(self.correction_kind, self.negative_sampling)

    @property
    def correction_kind(self) -> SamplingCorrection:
        """The value of `sampling_correction`, or its default."""
        return self.sampling_correction or ("loss" if self.negative_sampling else "none")

    def structure(self, sparse: Iterable[str]) -> dict[str, Any]:
        """Returns the keys that determine the shapes of a model's state for these sparse features.

        Training can continue from a snapshot only with a recipe of the same structure.
        """
        shaping = {"table_optimizer": {"kind"}, "dense_optimizer": {"kind"}}
        tables = {feature: _shape(self.tables.of(feature)) for feature in sparse}
        fixed = {"model": self.model.shape, "tables": tables, "exclude_features": sorted(self.exclude_features)}
        return self.model_dump(mode="json", include=shaping) | fixed

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, data: Any) -> Any:
        expanded = expand_recipe(data)
        if isinstance(expanded, dict):
            asked = expanded.get("sampling_correction")
            if isinstance(asked, bool):
                return expanded | {"sampling_correction": "loss" if asked else "none"}
        return expanded

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.sampling_correction == "serving" and (not self.negative_sampling or self.negative_sampling.by != "constant"):
            raise ValueError(
                "sampling_correction: serving needs negative_sampling by constant, whose rate is known when serving"
            )
        fixed = {name: table.kind for name, table in self.tables.features.items() if table.kind != "collisionless"}
        fixed |= {} if self.tables.default.kind == "collisionless" else {"default": self.tables.default.kind}
        if fixed and self.table_optimizer.kind != "rowwise_adagrad":
            raise ValueError(
                f"table_optimizer.kind {self.table_optimizer.kind} is for collisionless tables only, but there are {fixed}"
            )
        for name, table in {"default": self.tables.default, **self.tables.features}.items():
            if isinstance(table, CompositionalTable):
                widths_of(name, self.model.embedding_dim, table.partitions, table.operation, table.dim)
        if self.early_stop and "validation" in self.splits:
            raise ValueError("early_stop evaluates the split `validation`, so it cannot be among the splits to train on")
        if isinstance(self.model, TwoTowerRecipe):
            rowwise = ["label_smoothing"] if self.label_smoothing else []
            rowwise += ["sampling_correction"] if self.correction_kind != "none" else []
            rowwise += ["negative_sampling"] if self.negative_sampling else []
            rowwise += ["fake_negative_weights"] if self.fake_negative_weights else []
            if rowwise and self.model.loss == "softmax":
                raise ValueError(
                    f"{rowwise} require a loss per example; two_tower's `loss: softmax` ignores unclicked examples"
                )
            if not self.tables.init_scale:
                raise ValueError(
                    "tables.init_scale: expected more than 0, because two_tower compares directions, and zero vectors have none"
                )
        return self


def _shape(table: Table) -> dict[str, Any]:
    """The keys that determine the shapes and the meaning of a table's tensors."""
    if isinstance(table, CollisionlessTable):
        return table.model_dump(mode="json", include={"kind", "filter"})
    unused = {"parts"} if isinstance(table, CompositionalTable) and table.family not in PARTED else None
    return table.model_dump(mode="json", exclude=unused)


def load_recipe(name: str, overrides: Mapping[str, Any] | None = None, folder: Path = RECIPES) -> Recipe:
    """Loads the recipe `<folder>/<name>.yaml`.

    A recipe can extend another recipe of its folder, or a built-in one, with `extends`. It then lists only the keys that
    differ, except for the section `model`, which replaces that section of the other recipe.

    Args:
        name: Name of the file, without `.yaml`.
        overrides: Keys with other values, nested as in the recipe. They are merged into the recipe key by key.
        folder: Folder of the file; by default the built-in recipes.

    Returns:
        The validated recipe.

    Raises:
        CatalogError: The file or the overrides are not valid. The message names the file and the key path. Key paths of
            overrides begin with `recipe.overrides`, as in a catalog entry.
    """
    path = folder / f"{name}.yaml"
    data = read_recipe(path)
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
    """Loads the recipe of one of a dataset's models.

    Args:
        spec: The dataset. Its overrides for all models are applied first, then those for this model.
        model: Name of the model.
        overrides: Further overrides, which are applied last.

    Returns:
        The validated recipe, with the edits of `recipes/<dataset>/<model>.yaml`, if there are any.

    Raises:
        CatalogError: The dataset has no such model, or its recipe is not valid.
    """
    if model not in spec.models:
        raise CatalogError(f"{spec.name} has no model {model!r}; its models are {list(spec.models)}")
    choice = spec.models[model]
    changed = merge(spec.recipe.overrides, choice.overrides)
    edits = read_edits(choice.edits)
    if edits is None:
        return load_recipe(choice.recipe or model, merge(changed, overrides or {}), choice.folder or RECIPES)
    recipe = with_edits(load_recipe(choice.recipe or model, changed, choice.folder or RECIPES), edits)
    return Recipe.model_validate(merge(recipe.model_dump(mode="json"), overrides)) if overrides else recipe


def retrieval_model(spec: DatasetSpec) -> str | None:
    """Return the name of a dataset's first two-tower model, which finds candidates; None without one."""
    return next(iter(two_tower_models(spec)), None)


def two_tower_models(spec: DatasetSpec) -> list[str]:
    """Return the names of a dataset's two-tower models, in the order of its entry."""
    return [name for name in spec.models if recipe_of(spec, name).model.kind == "two_tower"]


def with_edits(recipe: Recipe, edits: Edits) -> Recipe:
    """Returns a recipe with a user's edits. Raises `CatalogError` with the path of the key in their file."""
    present = recipe.model_dump(mode="json")
    check_removals(edits, present)
    try:
        return Recipe.model_validate(patch(present, expand_recipe(edits.values)))
    except ValidationError as error:
        raise explain_edits(edits, error) from error


def read_recipe(path: Path, extended: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Reads a recipe file, with the keys of the recipes that it extends. Raises `CatalogError`."""
    if not path.is_file():
        known = sorted({p.stem for folder in (path.parent, RECIPES) for p in folder.glob("*.yaml")})
        said = f"{extended[-1]}: extends: " if extended else ""
        raise CatalogError(f"{said}{path}: no such recipe; the recipes are {known}")
    if path in extended:
        raise CatalogError(f"{path}: extends: the recipes {[p.stem for p in extended]} extend each other in a cycle")
    data = read_yaml(path)
    base = data.pop("extends", None)
    if base is None:
        return data
    if not isinstance(base, str):
        raise CatalogError(f"{path}: extends: expected the name of a recipe, found {base!r}")
    places = [folder / f"{base}.yaml" for folder in (path.parent, RECIPES)]
    below = read_recipe(next((place for place in places if place.is_file() and place != path), places[0]), (*extended, path))
    return merge(below, data) | ({"model": data["model"]} if "model" in data else {})


def merge(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `base` with the values of `overrides`; mappings are merged, other values are replaced."""
    merged = dict(base)
    for key, value in overrides.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged
