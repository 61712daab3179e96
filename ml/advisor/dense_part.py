"""The layers of each kind of model, counted from a recipe without building the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ml.recipes.models import DcnRecipe, DeepFMRecipe, DlrmRecipe, TwoTowerRecipe, WideDeepRecipe
from ml.recipes.recipe import Recipe
from ml.recipes.tables import CompositionalTable
from ml.schema import FeatureSchema

PASSES = 3  # a forward product, and one backward product each for inputs and weights


@dataclass(frozen=True)
class Layer:
    """A linear layer.

    Attributes:
        inputs: Width of its input.
        outputs: Width of its output.
        bias: Whether it has a bias.
    """

    inputs: int
    outputs: int
    bias: bool = True

    @property
    def parameters(self) -> int:
        """Number of weights and biases."""
        return self.inputs * self.outputs + self.outputs * self.bias


@dataclass(frozen=True)
class DensePart:
    """What the dense part of a model computes for a row.

    Attributes:
        layers: Linear layers.
        products: Multiplications of the forward pass outside of the layers, such as DLRM's dot products.
        elements: Values that the forward pass writes: inputs, outputs of layers, and interactions.
    """

    layers: tuple[Layer, ...]
    products: int
    elements: int

    @property
    def parameters(self) -> int:
        """Number of parameters that the dense optimizer trains, excluding tables."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def flops(self) -> int:
        """Multiplications and additions of matrix products for a row, forward and backward."""
        return 2 * PASSES * (sum(layer.inputs * layer.outputs for layer in self.layers) + self.products)


def visible(recipe: Recipe, schema: FeatureSchema) -> FeatureSchema:
    """Return the schema with only the features that the model reads."""
    model, used = recipe.model, set(schema.dense) | set(schema.sparse)
    if isinstance(model, TwoTowerRecipe):
        used &= {*model.user, *model.item}
    used -= set(recipe.exclude_features)
    dense, single, multi = (
        tuple(name for name in names if name in used) for names in (schema.dense, schema.single, schema.multi)
    )
    return replace(schema, dense=dense, single=single, multi=multi)


def dense_part(recipe: Recipe, schema: FeatureSchema) -> DensePart:
    """Count the layers of a model.

    Args:
        recipe: The recipe.
        schema: The features of the dataset; the model reads those of `visible`.

    Returns:
        The dense part, for one row. A two-tower model has one row for each of its items.

    Example:
        >>> from ml.recipes.recipe import load_recipe
        >>> schema = FeatureSchema(dense=("age",), single=("user", "item"), multi=(), fingerprint="f")
        >>> dense_part(load_recipe("dlrm"), schema).layers[:2]
        (Layer(inputs=1, outputs=64, bias=True), Layer(inputs=64, outputs=16, bias=True))
    """
    own, dim = visible(recipe, schema), recipe.model.embedding_dim
    layers, products = COUNTS[type(recipe.model)](recipe.model, own)
    projected = 0
    for feature in own.sparse:
        table = recipe.tables.of(feature)
        if isinstance(table, CompositionalTable) and table.dim:
            layers.append(Layer(table.dim, dim, bias=False))
            projected += dim
    elements = len(own.dense) + (len(own.sparse) + 1) * dim + sum(layer.outputs for layer in layers) + projected
    return DensePart(tuple(layers), products, elements + products // dim)


Count = tuple[list[Layer], int]


def _dlrm(model: DlrmRecipe, schema: FeatureSchema) -> Count:
    features, dim = len(schema.sparse), model.embedding_dim
    dot = model.interaction == "dot"
    width = dim + features * (features + 1) // 2 if dot else dim * (features + 1)
    layers = [*_mlp(max(len(schema.dense), 1), [*model.bottom, dim]), *_mlp(width, [*model.top, 1])]
    layers += [Layer(features * dim, 1, bias=False)] if model.linear_shortcut else []
    return layers, (features + 1) ** 2 * dim if dot else 0


def _deepfm(model: DeepFMRecipe | WideDeepRecipe, schema: FeatureSchema) -> Count:
    dense = len(schema.dense)
    layers = list(_mlp(len(schema.sparse) * model.embedding_dim + dense, [*model.deep, 1]))
    return layers + ([Layer(dense, 1, bias=False)] if dense else []), 0


def _dcn(model: DcnRecipe, schema: FeatureSchema) -> Count:
    width, rank, last = len(schema.sparse) * model.embedding_dim + len(schema.dense), model.low_rank, model.deep[-1]
    cross = [Layer(width, rank, bias=False), Layer(rank, width)] if rank else [Layer(width, width)]
    over = Layer(last if model.structure == "stacked" else width + last, 1)
    return [*cross * model.cross_layers, *_mlp(width, model.deep), over], 0


def _two_tower(model: TwoTowerRecipe, schema: FeatureSchema) -> Count:
    layers: list[Layer] = []
    for names in (model.user, model.item):
        width = sum(name in schema.sparse for name in names) * model.embedding_dim
        layers += _mlp(width + sum(name in schema.dense for name in names), [*model.hidden, model.out])
        layers += [Layer(width, model.out, bias=False)] if width else []
    return layers, 0


COUNTS: dict[type, Callable[[Any, FeatureSchema], Count]] = {
    DlrmRecipe: _dlrm,
    DeepFMRecipe: _deepfm,
    WideDeepRecipe: _deepfm,
    DcnRecipe: _dcn,
    TwoTowerRecipe: _two_tower,
}


def _mlp(inputs: int, widths: Sequence[int]) -> Iterator[Layer]:
    for width in widths:
        yield Layer(inputs, width)
        inputs = width
