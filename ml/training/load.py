"""Trained models, loaded by their day."""

from __future__ import annotations

from torch import nn

from ml.artifacts.predictor import TorchPredictor
from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.schema import FeatureSchema
from ml.stages import tuned_models


def load_model(lake: Lake, spec: DatasetSpec, day: str, model: str | None = None) -> nn.Module:
    """Load the model as it was after training on a day.

    Args:
        lake: where the trained days are stored.
        spec: the dataset.
        day: `YYYY-MM-DD`.
        model: one of the dataset's models; by default the first.

    Returns:
        The model in eval mode, without gradients.

    Raises:
        MissingPartition: the day has not been trained.
        SnapshotMismatch: the model was trained on features of another specification.
        DamagedSnapshot: a file is missing, or is not the one that was written.
    """
    folder = lake.require(tuned_models(model or spec.primary), spec.name, day)
    return TorchPredictor.load(folder, FeatureSchema.of(spec)).model
