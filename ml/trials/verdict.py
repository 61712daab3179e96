"""Decides whether a tuned recipe replaces the one in use, on days that neither the trials nor the models have seen.

It does if its quality is significantly better. If time or size is tuned too, it also does if it is clearly better in these, and
its quality is significantly above the quality of the recipe in use less a margin (a test of non-inferiority).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ml.artifacts.predictor import TorchPredictor
from ml.artifacts.stored import require_model
from ml.catalog.spec import DatasetSpec
from ml.datasets.reader import BlockReader
from ml.datasets.splits import SPLITS
from ml.evaluation.compare import Estimate, LabelledRows, combine
from ml.lake import Lake
from ml.models.predict import predict_labelled
from ml.schema import FeatureSchema
from ml.stages import tuned_models
from ml.training.loop import threads
from ml.training.score import EVALUATION_BATCH, Floats

Predictions = Mapping[str, tuple[Floats, Floats]]
"""Labels and probabilities of scored days, by day."""


CLEARLY = 0.2
"""Smallest share of time or size that a recipe has to save to be clearly better."""


@dataclass(frozen=True)
class Saving:
    """Comparison of a metric other than quality, of which less is better. Both values were measured in trials.

    Attributes:
        metric: `training_time` or `model_bytes`.
        candidate: Value of the candidate.
        present: Value of the recipe in use.
    """

    metric: str
    candidate: float
    present: float

    @property
    def share(self) -> float:
        """The share of the present value that the candidate saves; negative if it needs more."""
        return 1 - self.candidate / self.present if self.present else 0.0


@dataclass(frozen=True)
class Verdict:
    """Comparison of a candidate with the recipe in use.

    Attributes:
        metric: The metric that decides, `auc` or `log_loss`.
        against: What the candidate was compared with.
        gains: By how much the candidate is better, by metric, over all days together; absent where it is undefined.
        days: The days.
        margin: Loss of `metric` that is accepted for savings.
        savings: Comparison of the other optimized metrics; empty if quality alone decides.
    """

    metric: str
    against: str
    gains: Mapping[str, Estimate]
    days: tuple[str, ...]
    margin: float = 0.0
    savings: tuple[Saving, ...] = ()

    @property
    def better(self) -> bool:
        """Whether the candidate is significantly better by `metric`."""
        return self.metric in self.gains and self.gains[self.metric].is_above(0.0)

    @property
    def not_worse(self) -> bool:
        """Whether the candidate is significantly not worse by `metric` than `margin` allows."""
        return self.metric in self.gains and self.gains[self.metric].is_above(-self.margin)

    @property
    def saves(self) -> bool:
        """Whether the candidate is clearly better in one of the other metrics, and worse in none."""
        shares = [saving.share for saving in self.savings]
        return bool(shares) and min(shares) >= 0 and max(shares) >= CLEARLY

    @property
    def adopted(self) -> bool:
        """Whether the candidate replaces the recipe in use."""
        return self.better or (self.not_worse and self.saves)

    @property
    def reason(self) -> str:
        """Why it is adopted, or not."""
        days = ", ".join(self.days)
        if self.metric not in self.gains:
            return f"{self.metric} is undefined on {days}"
        if self.better:
            return f"{self.metric} is significantly better on {days}"
        found = [f"{self.metric} is not significantly better on {days}"]
        if self.savings:
            found.append(f"{'not' if self.not_worse else 'possibly'} worse by more than {self.margin:g}")
        found += [f"{one.metric} is {abs(one.share):.0%} {'less' if one.share >= 0 else 'more'}" for one in self.savings]
        return ", ".join(found)

    def to_json(self) -> dict[str, Any]:
        """Returns plain data for a manifest."""
        gains = {name: {"gain": gain.value, "error": gain.error, "p": gain.p_above(0.0)} for name, gain in self.gains.items()}
        compared = {"metric": self.metric, "against": self.against, "days": list(self.days), "gains": gains}
        savings = [{**vars(saving), "share": saving.share} for saving in self.savings]
        quality = {"better": self.better, "margin": self.margin, "not_worse": self.not_worse}
        return compared | quality | {"savings": savings, "reason": self.reason}


def judge(candidate: Predictions, present: Predictions, metric: str, against: str, margin: float = 0.0) -> Verdict:
    """Compare two models on the same rows of the same days.

    Args:
        candidate: Predictions of the candidate.
        present: Predictions of the model in use, for the same days.
        metric: The metric that decides, `auc` or `log_loss`.
        against: What the model in use is, for people.
        margin: Loss of the metric that is accepted for savings.

    Raises:
        ValueError: The days or the rows differ.
    """
    found: dict[str, list[Estimate]] = {"auc": [], "log_loss": []}
    if candidate.keys() != present.keys():
        raise ValueError(f"the days differ: {sorted(candidate)} and {sorted(present)}")
    for day, (labels, probabilities) in candidate.items():
        other_labels, other = present[day]
        if not np.array_equal(labels, other_labels):
            raise ValueError(f"{day}: the rows of the two models differ")
        rows = LabelledRows(labels)
        for name, sign, one, two in (
            ("auc", 1, rows.auc(probabilities), rows.auc(other)),
            ("log_loss", -1, rows.log_loss(probabilities), rows.log_loss(other)),
        ):
            if one is not None and two is not None:
                difference = rows.compare(one, two)
                found[name].append(difference if sign > 0 else -difference)
    gains = {name: total for name, estimates in found.items() if (total := combine(estimates)) is not None}
    return Verdict(metric, against, gains, tuple(candidate), margin)


def predictions_in_use(lake: Lake, spec: DatasetSpec, model: str, days: tuple[str, ...]) -> Predictions | None:
    """Predict days with the daily models of the days before them.

    Returns:
        The predictions, or None if one of the models is not in the lake.
    """
    found = {}
    for day in days:
        before = spec.previous_day(day)
        if before is None or not lake.has(tuned_models(model), spec.name, before):
            return None
        folder = require_model(lake, tuned_models(model), spec.name, before)
        predictor = TorchPredictor.load(folder, FeatureSchema.of(spec))
        reader = BlockReader(lake, spec, [day], splits=SPLITS, batch_size=EVALUATION_BATCH, order="time")
        with threads(predictor.recipe.threads):
            found[day] = predict_labelled(predictor.model, reader, predictor.recipe.correction)
    return found
