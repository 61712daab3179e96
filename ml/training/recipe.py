"""How to train: the pydantic `Recipe` behind `catalog/recipes/*.yaml`, and loading one with a dataset's overrides.

A recipe names numbers only; what they do lives in `ml.models`, `ml.embeddings` and `ml.training.loop`. Every key is used
somewhere, and a key that is not known is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from ml.catalog.load import CATALOG, CatalogError, explain, read_yaml
from ml.catalog.spec import Strict
from ml.embeddings.optimizers import Kind
from ml.embeddings.partitions import partitions_for
from ml.embeddings.rules import Evict, Family, Filter, Operation, TableRules

RECIPES = CATALOG / "recipes"
Split = Literal["train", "validation", "test"]
Width = int


class ModelRecipe(Strict):
    """Sizes of the network. The last width of each MLP is given by the model and not written down."""

    kind: Literal["dlrm", "deepfm"]
    embedding_dim: int = Field(ge=4, le=1024, multiple_of=4, description="D of every table; FBGEMM wants a multiple of 4.")
    bottom: tuple[Width, ...] = Field(description="Hidden widths of DLRM's dense MLP; D follows. Empty for DeepFM.")
    top: tuple[Width, ...] = Field(min_length=1, description="Hidden widths of the over, or deep, MLP; 1 follows.")
    linear_shortcut: bool = Field(
        default=False, description="Of DLRM: add a linear function of the embeddings to the logit, which learns at once."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if bad := [width for width in (*self.bottom, *self.top) if width < 1]:
            raise ValueError(f"bottom, top: widths must be positive, found {bad}")
        if self.kind == "deepfm" and (self.bottom or self.linear_shortcut):
            raise ValueError("bottom and linear_shortcut are DLRM's; for deepfm: bottom: [], linear_shortcut: false")
        return self


class CollisionlessTable(Strict):
    """A row for every id, once admitted: the table grows, and forgets what it is told to. Times are event time."""

    kind: Literal["collisionless"] = "collisionless"
    admit_after: int = Field(default=1, ge=1, description="An id has a row from its so-many-th occurrence on.")
    filter: Filter = Field(
        default="exact",
        description="What counts until then: all, the last `window_seconds`, or nothing: each occurrence admits by chance.",
    )
    window_seconds: float | None = Field(default=None, gt=0, description="Of `filter: sliding`.")
    ttl_seconds: float | None = Field(default=None, gt=0, description="Rows not seen for so long are let go; null is never.")
    max_rows: int | None = Field(default=None, ge=1, description="Never more rows than these.")
    evict: Evict = Field(default="least_recently_used", description="What makes way when `max_rows` are taken.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        TableRules("", **self.model_dump(exclude={"kind"}))
        return self


class HashedTable(Strict):
    """A fixed number of rows; ids beyond them are hashed into them, and may share one."""

    kind: Literal["hashed"]
    rows: int = Field(ge=4, le=2**31 - 1)


class StaticTable(Strict):
    """A fixed number of rows for a small stable vocabulary: buckets, hours. An id beyond them is out of vocabulary."""

    kind: Literal["static"]
    rows: int = Field(ge=4, le=2**31 - 1)


class CompositionalTable(Strict):
    """A fixed number of rows, several of which make an id's embedding together, so that no two ids of `universe` share it."""

    kind: Literal["compositional"]
    family: Family = Field(default="quotient_remainder", description="How an id's rows are found.")
    operation: Operation = Field(
        default="add",
        description="How its rows become one: side by side, sum, product, through small MLPs; or projected up from `dim`.",
    )
    rows: int = Field(ge=4, le=2**31 - 1, description="In all, over the partitions.")
    parts: int = Field(default=2, ge=1, description="Rows an id has, where the family leaves it open.")
    universe: int = Field(
        default=2**32, ge=1, le=2**64, description="How many ids are told apart; others are mixed into these."
    )
    dim: int | None = Field(default=None, ge=4, description="Of operation `project`: weights of a row.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        partitions_for(self.family, self.universe, self.rows, self.parts)
        return self


Table = CollisionlessTable | HashedTable | StaticTable | CompositionalTable
TableRecipe = Annotated[Table, Field(discriminator="kind")]


class TablesRecipe(Strict):
    """Embedding tables, one per sparse feature. What `features` says of one is all there is to say of it: `default` is for the
    others."""

    default: TableRecipe = CollisionlessTable()
    features: dict[str, TableRecipe] = Field(default_factory=dict)
    init_scale: float = Field(ge=0, allow_inf_nan=False, description="Rows begin uniform in [-init_scale, init_scale].")

    def of(self, feature: str) -> Table:
        return self.features.get(feature, self.default)


class TableOptimizer(Strict):
    """Optimizer of table rows, applied in the backward pass. All kinds of tables know row-wise Adagrad: one accumulator per
    row, the mean square of its gradients; collisionless tables know the others as well."""

    kind: Kind = "rowwise_adagrad"
    lr: float = Field(gt=0, allow_inf_nan=False)
    eps: float = Field(gt=0, allow_inf_nan=False)
    initial_accumulator: float = Field(
        ge=0,
        allow_inf_nan=False,
        description="Damps the first updates of a row. In squared gradients of one example, so that it means the same at any "
        "batch size.",
    )
    beta1: float = Field(default=0.9, ge=0, lt=1, description="Of adam.")
    beta2: float = Field(default=0.999, ge=0, lt=1, description="Of adam.")
    beta: float = Field(default=1.0, ge=0, description="Of ftrl.")
    l1: float = Field(default=0.0, ge=0, description="Of ftrl.")
    l2: float = Field(default=0.0, ge=0, description="Of ftrl.")


class DenseOptimizer(Strict):
    """Optimizer of everything that is not a table."""

    kind: Literal["adam", "adagrad"]
    lr: float = Field(gt=0, allow_inf_nan=False)
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False, description="Decoupled from the gradient with adam.")
    clip_norm: float | None = Field(default=None, gt=0, allow_inf_nan=False, description="Bound on the gradient's 2-norm.")


class Schedule(Strict):
    """Learning rates over one day, as shares of its steps: linear warm-up, plateau, linear decay."""

    warm_up: float = Field(default=0.0, ge=0, le=1)
    decay_start: float = Field(default=1.0, ge=0, le=1)
    decay_to: float = Field(default=1.0, ge=0, le=1, description="Factor at the last step.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.warm_up > self.decay_start:
            raise ValueError(f"warm_up {self.warm_up} ends after decay_start {self.decay_start}")
        return self

    def factor(self, step: int, total_steps: int) -> float:
        """What both learning rates are multiplied with at a step counted from 0. In (0, 1], or 0 at the end if `decay_to` is.

        >>> [Schedule(warm_up=0.5, decay_start=0.5, decay_to=0.0).factor(step, 4) for step in range(4)]
        [0.5, 1.0, 0.5, 0.0]
        """
        done = (step + 1) / total_steps
        if done < self.warm_up:
            return done / self.warm_up
        if done > self.decay_start:
            return 1 - (1 - self.decay_to) * (done - self.decay_start) / (1 - self.decay_start)
        return 1.0


class Recipe(Strict):
    """Everything that decides how a day's model is trained. `fingerprint` names it in manifests."""

    model: ModelRecipe
    tables: TablesRecipe
    table_optimizer: TableOptimizer
    dense_optimizer: DenseOptimizer
    batch_size: int = Field(ge=1)
    schedule: Schedule = Schedule()
    splits: tuple[Split, ...] = Field(
        default=("train", "validation", "test"),
        min_length=1,
        description="Splits of the day that are trained on. All of them: the report scores the next day.",
    )
    seed: int = Field(default=0, ge=0)
    threads: int = Field(default=1, ge=1, description="Of torch. Sums depend on it, so it belongs to what is reproduced.")
    checkpoint_minutes: float = Field(default=5.0, gt=0, description="How much work a kill may cost.")

    @property
    def fingerprint(self) -> str:
        """Hash of everything that the trained model depends on."""
        shaped = self.model_dump(mode="json", exclude={"checkpoint_minutes"})
        return hashlib.sha256(json.dumps(shaped, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def structure(self) -> dict[str, Any]:
        """What fixes the shapes of the state: a snapshot can be trained on only where this is the same."""
        shaping = {"model": True, "table_optimizer": {"kind"}, "dense_optimizer": {"kind"}}
        features = {name: _shape(table) for name, table in self.tables.features.items()}
        tables = {"default": _shape(self.tables.default), "features": features}
        return self.model_dump(mode="json", include=shaping) | {"tables": tables}

    @model_validator(mode="after")
    def _check(self) -> Self:
        fixed = {name: table.kind for name, table in self.tables.features.items() if table.kind != "collisionless"}
        fixed |= {} if self.tables.default.kind == "collisionless" else {"default": self.tables.default.kind}
        if fixed and self.table_optimizer.kind != "rowwise_adagrad":
            raise ValueError(
                f"table_optimizer.kind {self.table_optimizer.kind} is for collisionless tables only, found {fixed}"
            )
        return self


def _shape(table: Table) -> dict[str, Any]:
    """What fixes a table's tensors, and what they mean: of one that grows, its kind, and how it counts what waits."""
    return table.model_dump(mode="json", include={"kind", "filter"} if isinstance(table, CollisionlessTable) else None)


def load_recipe(name: str, overrides: Mapping[str, Any] | None = None, folder: Path = RECIPES) -> Recipe:
    """The recipe `<folder>/<name>.yaml`, with `overrides` merged into it key by key.

    Raises `CatalogError` that names the file and the key path; a fault in the overrides begins with `recipe.overrides`,
    where a dataset's YAML holds them.
    """
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in folder.glob("*.yaml"))
        raise CatalogError(f"{path}: no such recipe; the recipes are {known}")
    data = read_yaml(path)
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


def merge(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `overrides` in place of its own; mappings are merged, everything else is replaced."""
    merged = dict(base)
    for key, value in overrides.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged
