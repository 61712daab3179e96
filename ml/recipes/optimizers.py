"""How weights are moved: the optimizers of a recipe, and the schedule of their learning rates."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from ml.catalog.strict import Strict
from ml.embeddings.optimizers import Kind


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
    beta: float = Field(default=1.0, ge=0, description="Of ftrl; as l1 and l2 in gradients of one example.")
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
        """What both learning rates are multiplied with at a step counted from 0. In (0, 1], or 0 at the end if `decay_to` is;
        past the end as at the end.

        >>> [Schedule(warm_up=0.5, decay_start=0.5, decay_to=0.0).factor(step, 4) for step in range(4)]
        [0.5, 1.0, 0.5, 0.0]
        """
        done = min(1.0, (step + 1) / total_steps)
        if done < self.warm_up:
            return done / self.warm_up
        if done > self.decay_start:
            return 1 - (1 - self.decay_to) * (done - self.decay_start) / (1 - self.decay_start)
        return 1.0
