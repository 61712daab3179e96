"""The section `wishes` of a user's edits: limits of time and memory, and a target metric, of a model's training."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from ml.catalog.strict import FloatOrText, Strict, fault

UNITS = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]b)")


class WishedTarget(Strict):
    """A metric and the value at which the training of a day ends."""

    auc: FloatOrText | None = Field(default=None, gt=0, le=1, description="Smallest AUC.")
    log_loss: FloatOrText | None = Field(default=None, gt=0, description="Largest log loss.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.auc is None) == (self.log_loss is None):
            raise fault("", "expected either auc or log_loss")
        return self

    @property
    def pair(self) -> tuple[Literal["auc", "log_loss"], float]:
        """The metric and its value."""
        if self.auc is not None:
            return "auc", self.auc
        assert self.log_loss is not None  # one of the two is given
        return "log_loss", self.log_loss


class WishesSection(Strict):
    """Limits and a target of a model's training. The advisor applies them as far as its rules can."""

    seconds: FloatOrText | None = Field(
        default=None,
        gt=0,
        description="CPU-seconds of one core that the training of a day may take. Tuning then optimizes `training_time` beside "
        "the quality, with this as its threshold.",
    )
    memory: str | None = Field(
        default=None,
        description="Memory that the training process may take, such as `2gb`; by default 80 % of the memory of the machine, "
        "or of its container.",
    )
    target: WishedTarget | None = Field(
        default=None,
        description="Training of a day ends when the validation split reaches this; the split is then not trained on. With "
        "`seconds`, it is also the threshold of the metric in tuning.",
    )

    @field_validator("memory")
    @classmethod
    def _is_size(cls, value: str | None) -> str | None:
        if value is not None:
            size_in_bytes(value)
        return value


def size_in_bytes(text: str) -> float:
    """Returns the number of bytes of a size. Raises `ValueError` for text that is none.

    Example:
        >>> size_in_bytes("1.5gb")
        1500000000.0
    """
    match = _SIZE.fullmatch(text.strip().lower())
    if not match or not float(match[1]):
        raise ValueError(f"expected a size such as 500mb or 2gb, found {text!r}")
    return float(match[1]) * UNITS[match[2]]
