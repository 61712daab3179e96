"""Predictions of any model of this package. `ml.metrics` and `ml.evaluation` score them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ml.datasets.batch import Batch


def to_sampled_logits(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Convert full-log logits to logits on the down-sampled data: `logit - log(sample_rate)`.

    An unclicked row x is kept with probability pi(x), so the odds of a click among the kept rows are the odds in the full log
    divided by pi(x) (Wang, Zhang and Wang, 2021, arXiv 2110.13048).

    Args:
        logits: Logits in the full log, float32 [B].
        batch: The B rows, with their `sample_rate`.

    Returns:
        float32 [B].
    """
    return logits - batch.sample_rate.log()


def logits_of(model: nn.Module, batch: Batch, corrected: bool) -> torch.Tensor:
    """Compute logits that can be scored against the labels of the batch.

    Args:
        model: A model in eval mode.
        batch: B rows.
        corrected: Whether the model was trained with `sampling_correction`. Its logits then refer to the full log, and are
            converted to logits on the down-sampled rows.

    Returns:
        float32 [B].
    """
    logits = model(batch.dense, batch.sparse)
    return to_sampled_logits(logits, batch) if corrected else logits


@torch.no_grad()  # not inference_mode, which bypasses the autograd key that FBGEMM's CPU kernels need
def predict(model: nn.Module, batches: Iterable[Batch], corrected: bool = False) -> npt.NDArray[np.float32]:
    """Compute click probabilities in eval mode. The model, its mode and its tables are left unchanged.

    Args:
        model: `forward(dense, sparse) -> logits [B]`.
        batches: N rows in total.
        corrected: As for `logits_of`.

    Returns:
        float32 [N], in the order of the batches.
    """
    was_training = model.training
    model.eval()
    try:
        parts = [torch.sigmoid(logits_of(model, batch, corrected)).numpy() for batch in batches]
    finally:
        model.train(was_training)
    return np.concatenate(parts) if parts else np.empty(0, np.float32)


def predict_labelled(
    model: nn.Module, batches: Iterable[Batch], corrected: bool = False
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Compute click probabilities and collect the labels, in one pass over the batches.

    Args:
        model: `forward(dense, sparse) -> logits [B]`.
        batches: N rows in total, read once; they may be a generator.
        corrected: As for `logits_of`.

    Returns:
        Labels and probabilities, float32 [N] each.
    """
    labels: list[npt.NDArray[np.float32]] = []

    def noting_labels() -> Iterable[Batch]:
        for batch in batches:
            labels.append(batch.labels.numpy())
            yield batch

    probabilities = predict(model, noting_labels(), corrected)
    return np.concatenate(labels) if labels else np.empty(0, np.float32), probabilities
