"""Recipe keys of negative sampling: which unclicked rows a model is trained on, and how the sampling is corrected."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, Self

from pydantic import Field, model_validator

from ml.catalog.strict import FloatOrText, Strict

SamplingCorrection = Literal["none", "loss", "weights", "serving"]


class NegativeSampling(Strict):
    """Trains on all clicked rows and on a sample of the unclicked ones. Each row records its rate in `sample_rate`."""

    by: Literal["constant", "score"] = Field(
        default="constant",
        description="`constant` keeps every unclicked row with probability `keep`. `score` keeps rows in proportion to the "
        "click probability that the model predicts for them before it is trained on them, so that hard negatives are kept.",
    )
    keep: FloatOrText = Field(
        gt=0, le=1, description="Share of the unclicked rows that is kept; with `score`, on average in a batch."
    )
    floor: FloatOrText = Field(default=0.01, gt=0, le=1, description="`score`: smallest probability with which a row is kept.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.by == "score" and self.floor > self.keep:
            raise ValueError(f"floor {self.floor} is above keep {self.keep}, the average that it should lead to")
        return self


class Correction(NamedTuple):
    """How logits of a model are converted to logits that can be scored against the labels of rows.

    Attributes:
        per_row: Whether the model's logits refer to the full log. `log(sample_rate)` of each row is subtracted.
        shift: Added to every logit, because the model was trained on a constant share of the unclicked rows.
    """

    per_row: bool = False
    shift: float = 0.0


UNCORRECTED = Correction()


def correction_of(kind: SamplingCorrection, sampling: NegativeSampling | None) -> Correction:
    """Return the correction of the predictions of a model that was trained with these recipe keys."""
    if kind == "serving" and sampling is not None:
        return Correction(shift=math.log(sampling.keep))
    return Correction(per_row=kind in ("loss", "weights"))
