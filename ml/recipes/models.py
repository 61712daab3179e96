"""Which model, and its sizes: the `model` section of a recipe. What the kinds are is `ml.models`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from ml.catalog.strict import Strict
from ml.recipes.optimizers import TableOptimizer

Width = Annotated[int, Field(ge=1)]
Dropout = Annotated[float, Field(ge=0, lt=1, description="Share of each hidden layer's outputs that training leaves out.")]


class _Model(Strict):
    """Widths are those of hidden layers. The last width of each MLP is given by the model and not written down."""

    embedding_dim: int = Field(ge=4, le=1024, multiple_of=4, description="D of every table; FBGEMM wants a multiple of 4.")
    dropout: Dropout = 0.0

    @property
    def shape(self) -> dict[str, Any]:
        """What fixes the shapes of a trained model."""
        rates = self.model_dump(mode="json", exclude={"dropout"})
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


ModelRecipe = Annotated[DlrmRecipe | WideDeepRecipe | DeepFMRecipe | DcnRecipe, Field(discriminator="kind")]
