"""Accuracy of a model on a batch, what is lost between two models, and what each table alone loses when it is quantised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from ml.datasets.batch import Batch
from ml.embeddings.inference.quantised import QuantisedBags
from ml.embeddings.interface import TrainableBags, bags_of
from ml.evaluation.compare import Estimate, LabelledRows
from ml.metrics import ClickSums, auc
from ml.models.predict import logits_of
from ml.recipes.sampling import UNCORRECTED, Correction


@dataclass(frozen=True)
class Accuracy:
    """Accuracy on some rows.

    Attributes:
        auc: AUC; None if all rows are clicked or none is.
        log_loss: Mean log loss.

    Example:
        >>> round(Accuracy(0.75, 0.5).lost(Accuracy(0.74, 0.6)), 3)
        0.01
        >>> round(Accuracy(None, 0.5).lost(Accuracy(None, 0.6)), 3)
        0.1
    """

    auc: float | None
    log_loss: float

    def lost(self, after: Accuracy) -> float:
        """Return the loss of accuracy from this to `after`: AUC, or log loss if AUC is undefined. Negative for a gain."""
        if self.auc is None or after.auc is None:
            return after.log_loss - self.log_loss
        return self.auc - after.auc


@torch.no_grad()  # not inference_mode, which bypasses the autograd key that FBGEMM's CPU kernels need
def scores_of(model: nn.Module, batch: Batch, correction: Correction = UNCORRECTED) -> NDArray[np.float64]:
    """Score a batch.

    Args:
        model: `forward(dense, sparse) -> logits [B]`, in eval mode.
        batch: B rows with labels.
        correction: As for `ml.models.predict.predict`.

    Returns:
        Logits, float64 [B].
    """
    return logits_of(model, batch, correction).double().numpy()


def accuracy(labels: NDArray[np.float32], logits: NDArray[np.float64]) -> Accuracy:
    """Compute the accuracy of logits [B] against labels [B]. Raises `ValueError` without rows."""
    log_loss = ClickSums.of(labels, probabilities(logits)).log_loss
    if log_loss is None:
        raise ValueError("there are no rows to score")
    return Accuracy(auc(labels, logits), log_loss)


def accuracy_of(model: nn.Module, batch: Batch, correction: Correction = UNCORRECTED) -> Accuracy:
    """Compute the accuracy of a model on a batch; takes the arguments of `scores_of`. Raises `ValueError` without rows."""
    return accuracy(batch.labels.numpy(), scores_of(model, batch, correction))


def loss_of(labels: NDArray[np.float32], before: NDArray[np.float64], after: NDArray[np.float64]) -> Estimate:
    """Estimate the accuracy lost between two models, with its sampling error; the value equals `Accuracy.lost`.

    Args:
        labels: [B].
        before: Logits of one model [B].
        after: Logits of the other one on the same rows [B].
    """
    rows = LabelledRows(labels)
    lost = rows.auc(before), rows.auc(after)
    if lost[0] is None or lost[1] is None:
        lost = rows.log_loss(probabilities(after)), rows.log_loss(probabilities(before))
    if lost[0] is None or lost[1] is None:
        raise ValueError("there are no rows to score")
    return rows.compare(lost[0], lost[1])


def probabilities(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Convert logits to probabilities."""
    return 1 / (1 + np.exp(-logits))


def losses_by_table(
    model: nn.Module, quantised: Mapping[str, QuantisedBags], batch: Batch, correction: Correction = UNCORRECTED
) -> dict[str, float]:
    """Measure, for each table, the accuracy that the model loses on a batch if only this table is quantised.

    All tables are read once as trained and once as quantised. The model is left unchanged.

    Args:
        model: The trained model, in eval mode.
        quantised: Quantised collections, by the path of the collection in the model that each replaces.
        batch: B rows with labels.
        correction: As for `ml.models.predict.predict`.

    Returns:
        Loss of AUC by table; of log loss if AUC is undefined.
    """
    trained, before = bags_of(model), accuracy_of(model, batch, correction)
    swapped = {path: _OneSwapped(trained[path], bags) for path, bags in quantised.items()}
    found: dict[str, float] = {}
    try:
        for path, bags in swapped.items():
            model.set_submodule(path, bags)
        for bags in swapped.values():
            for config, format in zip(bags.embedding_bag_configs(), bags.quantised.formats, strict=True):
                bags.swapped = set(config.feature_names)
                found[config.name] = before.lost(accuracy_of(model, batch, correction)) if format != "float32" else 0.0
            bags.swapped = set()
    finally:
        for path in swapped:
            model.set_submodule(path, trained[path])
    return found


class _OneSwapped(EmbeddingBagCollectionInterface):
    """Reads trained tables, and quantised tables for the features in `swapped`. Works for a single batch."""

    def __init__(self, trained: TrainableBags, quantised: QuantisedBags) -> None:
        super().__init__()
        self.trained, self.quantised = trained, quantised
        self.swapped: set[str] = set()
        self._read: tuple[KeyedTensor, KeyedTensor] | None = None

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        if self._read is None:
            self._read = self.trained(features), self.quantised(features)
        plain, coarse = self._read
        parts = [(coarse if key in self.swapped else plain)[key] for key in plain.keys()]  # noqa: SIM118
        return KeyedTensor(plain.keys(), plain.length_per_key(), torch.cat(parts, 1))

    def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
        return self.trained.embedding_bag_configs()

    def is_weighted(self) -> bool:
        return False
