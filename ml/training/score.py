"""Scoring of a training state on rows that it has not been trained on."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from ml.datasets.batch import Batch
from ml.metrics import summary
from ml.models.predict import predict_labelled
from ml.recipes.models import TwoTowerRecipe
from ml.training.loop import threads
from ml.training.state import TrainState

Floats = npt.NDArray[np.float32]

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
    return scores_of(state, *predictions_of(state, batches))


def predictions_of(state: TrainState, batches: Iterable[Batch]) -> tuple[Floats, Floats]:
    """Return labels and probabilities of N rows, float32 [N] each. The state is left unchanged."""
    with threads(state.recipe.threads):
        return predict_labelled(state.model, batches, state.recipe.correction)


def scores_of(state: TrainState, labels: Floats, probabilities: Floats) -> dict[str, float | int | None]:
    """Summarise predictions of a state, as `score` does."""
    model = state.recipe.model
    ranks_only = isinstance(model, TwoTowerRecipe) and model.loss == "softmax"
    return summary(labels, probabilities, ranks_only)
