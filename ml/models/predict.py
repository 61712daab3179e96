"""Predictions of any model of this package. `ml.metrics` and `ml.evaluation` score them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ml.datasets.batch import Batch
from ml.recipes.sampling import UNCORRECTED, Correction


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


def logits_of(model: nn.Module, batch: Batch, correction: Correction = UNCORRECTED) -> torch.Tensor:
    """Compute the logits of rows.

    Args:
        model: A model in eval mode.
        batch: B rows.
        correction: `Recipe.correction` for logits that can be scored against the labels of the batch. With
            `Correction(shift=...)` alone, for logits in the full log.

    Returns:
        float32 [B].
    """
    logits = model(batch.dense, batch.sparse)
    if correction.shift:
        logits = logits + correction.shift
    return to_sampled_logits(logits, batch) if correction.per_row else logits


def logits_of_labels(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Compute the logits of all labels that a model predicts, float32 [B, L], the main label first.

    A model without a method `logits` predicts the main label only.
    """
    every = getattr(model, "logits", None)
    return model(batch.dense, batch.sparse).unsqueeze(1) if every is None else every(batch.dense, batch.sparse)


@torch.no_grad()
def predict_labels(model: nn.Module, batch: Batch, correction: Correction = UNCORRECTED) -> npt.NDArray[np.float32]:
    """Compute the probabilities of all labels that a model in eval mode predicts.

    Args:
        model: A model in eval mode.
        batch: B rows.
        correction: As for `logits_of`. It applies to the main label; the loss of further labels corrects for sampling by
            weights.

    Returns:
        float32 [B, L], the main label first.
    """
    every = logits_of_labels(model, batch)
    main = every[:, 0] + correction.shift if correction.shift else every[:, 0]
    main = to_sampled_logits(main, batch) if correction.per_row else main
    return torch.sigmoid(torch.cat((main.unsqueeze(1), every[:, 1:]), 1)).numpy()


@torch.no_grad()  # not inference_mode, which bypasses the autograd key that FBGEMM's CPU kernels need
def predict(model: nn.Module, batches: Iterable[Batch], correction: Correction = UNCORRECTED) -> npt.NDArray[np.float32]:
    """Compute click probabilities in eval mode. The model, its mode and its tables are left unchanged.

    Args:
        model: `forward(dense, sparse) -> logits [B]`.
        batches: N rows in total.
        correction: As for `logits_of`.

    Returns:
        float32 [N], in the order of the batches.
    """
    was_training = model.training
    model.eval()
    try:
        parts = [torch.sigmoid(logits_of(model, batch, correction)).numpy() for batch in batches]
    finally:
        model.train(was_training)
    return np.concatenate(parts) if parts else np.empty(0, np.float32)


def predict_labelled(
    model: nn.Module, batches: Iterable[Batch], correction: Correction = UNCORRECTED
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Compute click probabilities and collect the labels, in one pass over the batches.

    Args:
        model: `forward(dense, sparse) -> logits [B]`.
        batches: N rows in total, read once; they may be a generator.
        correction: As for `logits_of`.

    Returns:
        Labels and probabilities, float32 [N] each.
    """
    labels: list[npt.NDArray[np.float32]] = []

    def noting_labels() -> Iterable[Batch]:
        for batch in batches:
            labels.append(batch.labels.numpy())
            yield batch

    probabilities = predict(model, noting_labels(), correction)
    return np.concatenate(labels) if labels else np.empty(0, np.float32), probabilities
