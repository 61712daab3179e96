"""Scoring of a training state on rows that it has not been trained on."""

from __future__ import annotations

from collections.abc import Iterable

from ml.datasets.batch import Batch
from ml.metrics import summary
from ml.models.predict import predict_labelled
from ml.recipes.models import TwoTowerRecipe
from ml.training.loop import threads
from ml.training.state import TrainState

EVALUATION_BATCH = 8192
"""Rows per batch when a training state is evaluated."""


def score(state: TrainState, batches: Iterable[Batch]) -> dict[str, float | int | None]:
    """Score the model of a state with `recipe.threads` threads. The state is left unchanged.

    Args:
        state: A training state, whose model predicts in eval mode.
        batches: Rows with labels; read once.

    Returns:
        `ml.metrics.summary` of the rows: counts, and metrics that are None if they are undefined. For a two-tower model with
        `loss: softmax` only the AUC is defined, because its scores are not probabilities.
    """
    model = state.recipe.model
    ranks_only = isinstance(model, TwoTowerRecipe) and model.loss == "softmax"
    with threads(state.recipe.threads):
        labels, probabilities = predict_labelled(state.model, batches, state.recipe.sampling_correction)
    return summary(labels, probabilities, ranks_only)
