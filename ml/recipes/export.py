"""The `export` section of a recipe: how `ml.export` quantises a trained model for inference."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ml.catalog.strict import FloatOrText, Strict
from ml.embeddings.inference.formats import Format

LOOK_BACK_DAYS = 7  # largest number of days whose rows an export is measured on


class ExportRecipe(Strict):
    """Formats of an exported model. They do not change how it is trained."""

    rows: Format = Field(default="int8", description="Format of the rows of embedding tables.")
    tables: dict[str, Format] = Field(default_factory=dict, description="Formats of single tables, if different from `rows`.")
    layers: Literal["float32", "int8"] = Field(
        default="float32", description="Format of linear layers with more than one output; int8 is faster for large batches."
    )
    max_auc_loss: FloatOrText = Field(
        default=0.0005,
        ge=0,
        description="Largest loss of AUC, or of log loss if AUC is undefined; a significantly larger loss is refused.",
    )
    min_tower_recall: FloatOrText = Field(
        default=0.9,
        ge=0,
        le=1,
        description="Smallest share of the nearest items of trained two-tower models that the exported ones find; otherwise "
        "the check `export_quality` warns.",
    )
    max_latency_ms: FloatOrText | None = Field(
        default=None,
        gt=0,
        description="Largest median time, in milliseconds, to score 1,000 rows, or all measured rows if there are fewer; "
        "otherwise the check `export_quality` warns. By default, time is only shown.",
    )
