"""Decides whether a tuned recipe replaces the one in use: only if it is significantly better on days new to both models."""

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


@dataclass(frozen=True)
class Verdict:
    """Comparison of a candidate with the recipe in use.

    Attributes:
        metric: The metric that decides, `auc` or `log_loss`.
        against: What the candidate was compared with.
        gains: By how much the candidate is better, by metric, over all scored days together; absent where it is undefined.
        better: Whether the candidate is significantly better by `metric`.
    """

    metric: str
    against: str
    gains: Mapping[str, Estimate]
    better: bool

    def to_json(self) -> dict[str, Any]:
        """Returns plain data for a manifest."""
        gains = {name: {"gain": gain.value, "error": gain.error, "p": gain.p_above(0.0)} for name, gain in self.gains.items()}
        return {"metric": self.metric, "against": self.against, "gains": gains, "better": self.better}


def judge(candidate: Predictions, present: Predictions, metric: str, against: str) -> Verdict:
    """Compare two models on the same rows of the same days.

    Args:
        candidate: Predictions of the candidate.
        present: Predictions of the model in use, for the same days.
        metric: The metric that decides, `auc` or `log_loss`.
        against: What the model in use is, for people.

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
    return Verdict(metric, against, gains, metric in gains and gains[metric].is_above(0.0))


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
