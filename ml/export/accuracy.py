"""How well a model scores some rows, and what each of its tables loses in fewer bits, one at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from ml.datasets.batch import Batch
from ml.embeddings.inference.quantised import QuantisedBags
from ml.embeddings.interface import TrainableBags, bags_of
from ml.metrics import ClickSums, auc
from ml.models.predict import logits_of


@dataclass(frozen=True)
class Accuracy:
    """Of some rows; auc is None where they are all clicked, or none is."""

    auc: float | None
    log_loss: float

    def lost(self, after: Accuracy) -> float:
        """How much less accurate `after` is: by AUC or, where it is undefined, by log loss."""
        if self.auc is None or after.auc is None:
            return after.log_loss - self.log_loss
        return self.auc - after.auc


@torch.no_grad()  # not inference_mode, which FBGEMM's CPU kernels hang on
def accuracy_of(model: nn.Module, batch: Batch, corrected: bool = False) -> Accuracy:
    """corrected: as for `ml.models.predict.predict`. Raises `ValueError` where the batch has no rows."""
    logits = logits_of(model, batch, corrected).double().numpy()
    labels = batch.labels.numpy()
    log_loss = ClickSums.of(labels, 1 / (1 + np.exp(-logits))).log_loss
    if log_loss is None:
        raise ValueError("there are no rows to score")
    return Accuracy(auc(labels, logits), log_loss)


def losses_by_table(
    model: nn.Module, quantised: Mapping[str, QuantisedBags], batch: Batch, corrected: bool = False
) -> dict[str, float]:
    """What the model loses on the batch with one table in fewer bits and all else as trained, by table.

    quantised: by the path of the bags that they were made of. Every bag is read once. The model is left as it was.
    """
    trained, before = bags_of(model), accuracy_of(model, batch, corrected)
    swapped = {path: _OneSwapped(trained[path], bags) for path, bags in quantised.items()}
    found: dict[str, float] = {}
    try:
        for path, bags in swapped.items():
            model.set_submodule(path, bags)
        for bags in swapped.values():
            for config, format in zip(bags.embedding_bag_configs(), bags.quantised.formats, strict=True):
                bags.swapped = set(config.feature_names)
                found[config.name] = before.lost(accuracy_of(model, batch, corrected)) if format != "float32" else 0.0
            bags.swapped = set()
    finally:
        for path in swapped:
            model.set_submodule(path, trained[path])
    return found


class _OneSwapped(EmbeddingBagCollectionInterface):
    """Bags of trained tables, but for the features `swapped`, whose bags are the quantised tables'; of one batch."""

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
