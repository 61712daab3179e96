"""What a trained model is made into for inference alone: the `export` section of a recipe. How is `ml.export`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ml.catalog.strict import Strict
from ml.embeddings.inference.formats import Format

LOOK_BACK_DAYS = 7  # an export is judged by rows of its day and, where these are few, of days before it, so many in all


class ExportRecipe(Strict):
    """Changes nothing of how a model is trained."""

    rows: Format = Field(default="int8", description="Of embedding tables.")
    tables: dict[str, Format] = Field(default_factory=dict, description="By table, where it is another than `rows`.")
    layers: Literal["float32", "int8"] = Field(
        default="float32", description="Linear layers with more than one output; int8 is faster for large batches."
    )
    max_auc_loss: float = Field(
        default=0.0005, ge=0, description="An export that loses more is refused; of log loss, where AUC is undefined."
    )
