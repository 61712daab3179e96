"""Scoring a state under training on rows that it has not been trained on."""

from __future__ import annotations

from collections.abc import Iterable

from ml.datasets.batch import Batch
from ml.metrics import summary
from ml.models.predict import predict_labelled
from ml.recipes.models import TwoTowerRecipe
from ml.training.loop import threads
from ml.training.state import TrainState


def score(state: TrainState, batches: Iterable[Batch]) -> dict[str, float | int | None]:
    """Score the model of a state, which is left unchanged, on `recipe.threads` threads.

    Args:
        state: its model predicts in eval mode.
        batches: rows with labels; read once.

    Returns:
        `ml.metrics.summary` of the rows: counts, and metrics that are None where they are undefined. Of a two-tower model with
        `loss: softmax`, whose scores are no probabilities, only the AUC is defined.
    """
    model = state.recipe.model
    ranks_only = isinstance(model, TwoTowerRecipe) and model.loss == "softmax"
    with threads(state.recipe.threads):
        labels, probabilities = predict_labelled(state.model, batches, state.recipe.sampling_correction)
    return summary(labels, probabilities, ranks_only)
