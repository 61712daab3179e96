"""Recipe keys of optimizers and of the schedule of their learning rates."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from ml.catalog.strict import FloatOrText, Strict
from ml.embeddings.optimizers import Kind


class TableOptimizer(Strict):
    """Optimizer of embedding tables, applied in the backward pass.

    All kinds of tables support row-wise Adagrad, whose accumulator is the mean square of a row's gradients. The other
    optimizers are for collisionless tables.
    """

    kind: Kind = Field(default="rowwise_adagrad", description="The optimizer.")
    lr: FloatOrText = Field(gt=0, allow_inf_nan=False, description="Learning rate.")
    eps: FloatOrText = Field(gt=0, allow_inf_nan=False, description="Term added to the denominator of an update.")
    initial_accumulator: FloatOrText = Field(
        ge=0,
        allow_inf_nan=False,
        description="Initial value of a row's accumulator, which damps its first updates. It is in units of the squared "
        "gradient of one example, so its effect does not depend on the batch size.",
    )
    beta1: FloatOrText = Field(default=0.9, ge=0, lt=1, description="adam: decay of the first moment.")
    beta2: FloatOrText = Field(default=0.999, ge=0, lt=1, description="adam: decay of the second moment.")
    beta: FloatOrText = Field(
        default=1.0, ge=0, description="ftrl: smoothing of the learning rate, in units of one example's gradient."
    )
    l1: FloatOrText = Field(default=0.0, ge=0, description="ftrl: L1 regularisation, in units of one example's gradient.")
    l2: FloatOrText = Field(default=0.0, ge=0, description="ftrl: L2 regularisation, in units of one example's gradient.")


class DenseOptimizer(Strict):
    """Optimizer of dense parameters."""

    kind: Literal["adam", "adagrad"] = Field(description="The optimizer.")
    lr: FloatOrText = Field(gt=0, allow_inf_nan=False, description="Learning rate.")
    weight_decay: FloatOrText = Field(
        default=0.0, ge=0, allow_inf_nan=False, description="Weight decay; with adam it is decoupled from the gradient."
    )
    clip_norm: FloatOrText | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="Maximum 2-norm of the gradient; not clipped by default."
    )


class Schedule(Strict):
    """Factor of both learning rates over a day: linear warm-up, constant, linear decay."""

    warm_up: FloatOrText = Field(default=0.0, ge=0, le=1, description="End of the warm-up, as a fraction of the day's steps.")
    decay_start: FloatOrText = Field(
        default=1.0, ge=0, le=1, description="Start of the decay, as a fraction of the day's steps."
    )
    decay_to: FloatOrText = Field(default=1.0, ge=0, le=1, description="Factor at the last step.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.warm_up > self.decay_start:
            raise ValueError(f"warm_up {self.warm_up} ends after decay_start {self.decay_start}")
        return self

    def factor(self, step: int, total_steps: int) -> float:
        """Returns the factor of the learning rates at a step.

        Args:
            step: The step, from 0. Steps after the last one have the last one's factor.
            total_steps: Number of steps of the day.

        Returns:
            A factor in (0, 1], or 0 at the last step if `decay_to` is 0.

        Example:
            >>> [Schedule(warm_up=0.5, decay_start=0.5, decay_to=0.0).factor(step, 4) for step in range(4)]
            [0.5, 1.0, 0.5, 0.0]
        """
        done = min(1.0, (step + 1) / total_steps)
        if done < self.warm_up:
            return done / self.warm_up
        if done > self.decay_start:
            return 1 - (1 - self.decay_to) * (done - self.decay_start) / (1 - self.decay_start)
        return 1.0
