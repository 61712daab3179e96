"""Recipe keys of models: the `model` section. `ml.models` implements them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from ml.catalog.strict import FloatOrText, IntOrText, Strict
from ml.recipes.optimizers import TableOptimizer

Width = Annotated[IntOrText, Field(ge=1)]
Dropout = Annotated[FloatOrText, Field(ge=0, lt=1, description="Probability that training drops an output of a hidden layer.")]


CHANGEABLE = {"dropout", "temperature", "loss", "uniform_negatives", "logq_correction"}
"""Keys that do not affect the shapes of a model, so that they can change from one day to the next."""


class _Model(Strict):
    """Keys of all models. Widths are widths of hidden layers; the output width of each MLP follows from the model."""

    embedding_dim: IntOrText = Field(
        ge=4, le=1024, multiple_of=4, description="Dimension D of all embedding tables; FBGEMM requires a multiple of 4."
    )
    dropout: Dropout = 0.0

    @property
    def draws(self) -> bool:
        """Whether a training step draws random numbers."""
        return self.dropout > 0

    @property
    def shape(self) -> dict[str, Any]:
        """The keys that determine the shapes of a trained model."""
        rates = self.model_dump(mode="json", exclude=CHANGEABLE)
        return {name: value["kind"] if name == "wide_optimizer" else value for name, value in rates.items()}


class DlrmRecipe(_Model):
    """DLRM (Naumov et al., 2019, arXiv:1906.00091)."""

    kind: Literal["dlrm"] = Field(description="The model.")
    bottom: tuple[Width, ...] = Field(description="Widths of the MLP over dense features, before its output of D.")
    top: tuple[Width, ...] = Field(min_length=1, description="Widths of the MLP over interactions, before its output of 1.")
    interaction: Literal["dot", "cat"] = Field(
        default="dot", description="Interaction of the features: dot products of all pairs, or concatenation."
    )
    linear_shortcut: bool = Field(
        default=False, description="Whether a linear function of the embeddings is added to the logit."
    )


class WideDeepRecipe(_Model):
    """Wide & Deep (Cheng et al., 2016)."""

    kind: Literal["wide_deep"] = Field(description="The model.")
    deep: tuple[Width, ...] = Field(min_length=1, description="Widths of the deep part's MLP.")
    crosses: tuple[tuple[str, str], ...] = Field(
        default=(), description="Pairs of single-valued sparse features; each combination of values is an id of the wide part."
    )
    wide_optimizer: TableOptimizer = Field(description="Optimizer of the wide part, which has one weight per id.")


class DeepFMRecipe(_Model):
    """DeepFM (Guo et al., 2017)."""

    kind: Literal["deepfm"] = Field(description="The model.")
    deep: tuple[Width, ...] = Field(min_length=1, description="Widths of the deep part's MLP.")


class DcnRecipe(_Model):
    """DCN-v2 (Wang et al., 2021)."""

    kind: Literal["dcn_v2"] = Field(description="The model.")
    structure: Literal["stacked", "parallel"] = Field(
        default="parallel", description="Whether the deep part follows the cross layers or is parallel to them."
    )
    cross_layers: IntOrText = Field(ge=1, description="Number of cross layers.")
    low_rank: IntOrText | None = Field(
        default=None, ge=1, description="Rank of the cross layers' weights; full rank by default."
    )
    deep: tuple[Width, ...] = Field(min_length=1, description="Widths of the deep part's MLP.")


class TwoTowerRecipe(_Model):
    """Two Tower retrieval (Yi et al., 2019; Yang et al., 2020)."""

    kind: Literal["two_tower"] = Field(description="The model.")
    user: tuple[str, ...] = Field(min_length=1, description="Dense and sparse features of the user tower.")
    item: tuple[str, ...] = Field(
        min_length=1, description="Dense and sparse features of the item tower; its sparse features must be single-valued."
    )
    item_id: str = Field(description="Sparse feature of `item` that identifies the item.")
    hidden: tuple[Width, ...] = Field(description="Widths of the MLPs of both towers.")
    out: IntOrText = Field(ge=1, description="Dimension of the user and item embeddings.")
    temperature: FloatOrText = Field(default=0.07, gt=0, description="Divisor of the cosine of the embeddings.")
    loss: Literal["softmax", "pointwise"] = Field(
        default="softmax",
        description="`softmax` classifies each clicked example's item among the batch's items; `pointwise` predicts each "
        "example's click.",
    )
    uniform_negatives: IntOrText = Field(
        default=0,
        ge=0,
        description="Number of negatives that are drawn uniformly from recent items, in addition to the batch's items.",
    )
    logq_correction: bool = Field(
        default=True,
        description="Whether the log of an item's sampling probability is subtracted from its logits.",
    )

    @property
    def draws(self) -> bool:
        return super().draws or self.uniform_negatives > 0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if both := set(self.user) & set(self.item):
            raise ValueError(f"{sorted(both)} are features of both towers; expected each feature in one tower")
        if self.item_id not in self.item:
            raise ValueError(f"item_id {self.item_id!r} is not among the features of `item`, {list(self.item)}")
        return self


Model = DlrmRecipe | WideDeepRecipe | DeepFMRecipe | DcnRecipe | TwoTowerRecipe
ModelRecipe = Annotated[Model, Field(discriminator="kind")]
