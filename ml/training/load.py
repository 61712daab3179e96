"""Loading of trained models by day."""

from __future__ import annotations

from torch import nn

from ml.artifacts.predictor import TorchPredictor
from ml.artifacts.stored import require_model
from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.schema import FeatureSchema
from ml.stages import tuned_models


def load_model(lake: Lake, spec: DatasetSpec, day: str, model: str | None = None) -> nn.Module:
    """Load the model as it was after training on a day.

    Args:
        lake: Where the trained days are stored.
        spec: The dataset.
        day: `YYYY-MM-DD`.
        model: One of the dataset's models; by default the first.

    Returns:
        The model in eval mode, without gradients.

    Raises:
        MissingPartition: The day has not been trained.
        SnapshotMismatch: The model was trained on features of another specification.
        DamagedSnapshot: A file is missing, or has changed since it was written.
    """
    folder = require_model(lake, tuned_models(model or spec.primary), spec.name, day)
    return TorchPredictor.load(folder, FeatureSchema.of(spec)).model
