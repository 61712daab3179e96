"""Which model, and its sizes: the `model` section of a recipe. What the kinds are is `ml.models`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from ml.catalog.strict import Strict
from ml.recipes.optimizers import TableOptimizer

Width = Annotated[int, Field(ge=1)]
Dropout = Annotated[float, Field(ge=0, lt=1, description="Share of each hidden layer's outputs that training leaves out.")]


_CHANGEABLE = {"dropout", "temperature", "loss", "uniform_negatives", "logq_correction"}


class _Model(Strict):
    """Widths are those of hidden layers. The last width of each MLP is given by the model and not written down."""

    embedding_dim: int = Field(ge=4, le=1024, multiple_of=4, description="D of every table; FBGEMM wants a multiple of 4.")
    dropout: Dropout = 0.0

    @property
    def draws(self) -> bool:
        """Whether a training step depends on chance."""
        return self.dropout > 0

    @property
    def shape(self) -> dict[str, Any]:
        """What fixes the shapes of a trained model."""
        rates = self.model_dump(mode="json", exclude=_CHANGEABLE)
        return {name: value["kind"] if name == "wide_optimizer" else value for name, value in rates.items()}


class DlrmRecipe(_Model):
    """DLRM (Naumov et al., 2019)."""

    kind: Literal["dlrm"]
    bottom: tuple[Width, ...] = Field(description="Of the dense features' MLP; D follows.")
    top: tuple[Width, ...] = Field(min_length=1, description="Of the MLP over the interactions; 1 follows.")
    interaction: Literal["dot", "cat"] = Field(default="dot", description="Dot products of all pairs, or all side by side.")
    linear_shortcut: bool = Field(default=False, description="Add a linear function of the embeddings to the logit.")


class WideDeepRecipe(_Model):
    """Wide & Deep (Cheng et al., 2016)."""

    kind: Literal["wide_deep"]
    deep: tuple[Width, ...] = Field(min_length=1)
    crosses: tuple[tuple[str, str], ...] = Field(
        default=(), description="Pairs of single-valued sparse features whose combinations are ids of the wide part."
    )
    wide_optimizer: TableOptimizer = Field(description="Of the wide part's weights, one an id.")


class DeepFMRecipe(_Model):
    """DeepFM (Guo et al., 2017)."""

    kind: Literal["deepfm"]
    deep: tuple[Width, ...] = Field(min_length=1)


class DcnRecipe(_Model):
    """DCN-v2 (Wang et al., 2021)."""

    kind: Literal["dcn_v2"]
    structure: Literal["stacked", "parallel"] = Field(
        default="parallel", description="The deep part after the cross layers, or beside them."
    )
    cross_layers: int = Field(ge=1)
    low_rank: int | None = Field(default=None, ge=1, description="Rank of the cross layers' weights; null is full.")
    deep: tuple[Width, ...] = Field(min_length=1)


class TwoTowerRecipe(_Model):
    """Two Tower retrieval (Yi et al., 2019; Yang et al., 2020)."""

    kind: Literal["two_tower"]
    user: tuple[str, ...] = Field(min_length=1, description="Features, dense and sparse, of the user's tower.")
    item: tuple[str, ...] = Field(min_length=1, description="Of the item's tower; sparse ones with one id an example.")
    item_id: str = Field(description="The sparse feature of `item` that says which item it is.")
    hidden: tuple[Width, ...] = Field(description="Of both towers' MLPs.")
    out: int = Field(ge=1, description="Width of the vectors that are compared.")
    temperature: float = Field(default=0.07, gt=0, description="What the vectors' cosine is divided by.")
    loss: Literal["softmax", "pointwise"] = Field(
        default="softmax", description="Each clicked row's item among those of the batch, or clicked or not row by row."
    )
    uniform_negatives: int = Field(
        default=0, ge=0, description="Items drawn with equal chances from those that came by, beside those of the batch."
    )
    logq_correction: bool = Field(default=True, description="Take how often an item is sampled off its logits.")

    @property
    def draws(self) -> bool:
        return super().draws or self.uniform_negatives > 0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if both := set(self.user) & set(self.item):
            raise ValueError(f"{sorted(both)} are features of both towers")
        if self.item_id not in self.item:
            raise ValueError(f"item_id {self.item_id!r} is not among the features of `item`, {list(self.item)}")
        return self


Model = DlrmRecipe | WideDeepRecipe | DeepFMRecipe | DcnRecipe | TwoTowerRecipe
ModelRecipe = Annotated[Model, Field(discriminator="kind")]
