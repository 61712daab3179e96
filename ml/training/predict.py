"""Click probabilities from a trained day's model. Nothing here trains; scores and slices are `ml.evaluation`."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from upath import UPath

from ml.artifacts.snapshot import load_snapshot
from ml.catalog.spec import DatasetSpec
from ml.datasets.batch import Batch
from ml.lake import Lake
from ml.schema import FeatureSchema
from ml.training.objectives import to_sampled_logits


def stage_of(model: str) -> str:
    """Where the days of a dataset's model of this name lie in the lake."""
    return f"tuned_models/{model}"


def load_model(lake: Lake, spec: DatasetSpec, day: str, model: str | None = None) -> nn.Module:
    """The model as it was after training on `day`, in eval mode; the dataset's first by default.

    Raises `MissingPartition`, and `SnapshotMismatch` where it was trained on features of another specification.
    """
    folder: UPath = lake.require(stage_of(model or spec.primary), spec.name, day)
    return load_snapshot(folder, schema=FeatureSchema.of(spec), for_training=False).model.eval()


def logits_of(model: nn.Module, batch: Batch, corrected: bool) -> torch.Tensor:
    """Logits, float32 [B], of a model in eval mode. corrected: of one trained with `sampling_correction`, whose logits are of
    the log before sampling, those among the rows that came in, which is what these can be scored by."""
    logits = model(batch.dense, batch.sparse)
    return to_sampled_logits(logits, batch) if corrected else logits


@torch.no_grad()  # not inference_mode, which passes by the autograd key that FBGEMM's CPU kernel hangs on
def predict(model: nn.Module, batches: Iterable[Batch], corrected: bool = False) -> npt.NDArray[np.float32]:
    """Probabilities of all rows, float32 [N], in the order of the batches. The model is left as it was, tables included.

    corrected: as for `logits_of`.
    """
    was_training = model.training
    model.eval()
    try:
        parts = [torch.sigmoid(logits_of(model, batch, corrected)).numpy() for batch in batches]
    finally:
        model.train(was_training)
    return np.concatenate(parts) if parts else np.empty(0, np.float32)
