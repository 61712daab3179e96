"""Catalog keys that say when a recipe should be tuned again. Declarations only; `ml.trials.retune` decides."""

from __future__ import annotations

from pydantic import Field

from ml.catalog.strict import Float, Int, Strict


class Retune(Strict):
    """Reasons to tune a recipe again. `null` turns one off."""

    drift: Float | None = Field(
        default=0.25,
        gt=0,
        description="Drift of a feature from the days of the last tuning, in addition to how much these days differ among "
        "themselves, as a population stability index. Users, items and histories are excluded.",
    )
    fall: Float | None = Field(
        default=0.005,
        gt=0,
        description="Fall of a model's lead over the logistic regression, below the lead that the last tuning measured, in AUC "
        "or, if that was not a metric of the tuning, in log loss.",
    )
    calibration: Float | None = Field(
        default=1.25, gt=1, description="Factor by which predicted and observed clicks differ, beyond sampling noise."
    )
    online: bool = Field(
        default=True,
        description="Whether a fall of the AUC or recall of [online training](online-training.md), which the check "
        "`progressive_auc` reports, is a reason.",
    )
    days: Int = Field(default=3, ge=2, le=28, description="Number of last days on each of which a reason must hold.")
    reference_days: Int = Field(
        default=5,
        ge=2,
        le=28,
        description="Number of first days of the log that drift is measured from until a model is tuned for the first time.",
    )
