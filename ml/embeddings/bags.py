"""The face of every trainable collection of tables: TorchRec's `EmbeddingBagCollectionInterface`, and what training and
snapshots need beyond it. Kinds of tables implement it in their own modules; models and the loop know this face alone.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

import torch
from torch import nn
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface


class TrainableBags(EmbeddingBagCollectionInterface):
    """Pooled embeddings whose rows are updated during the backward pass, by an optimizer of their own."""

    def is_weighted(self) -> bool:
        return False

    @abstractmethod
    def set_learning_rate(self, lr: float) -> None:
        """Learning rate of the backward passes to come."""

    @abstractmethod
    def weights(self) -> dict[str, torch.Tensor]:
        """What predictions need, by name. Views of the live tensors: copying into one restores it."""

    @abstractmethod
    def training_state(self) -> dict[str, torch.Tensor]:
        """What only training needs, the optimizer's state first of all, by name. Views too."""

    @abstractmethod
    def begin_pass(self) -> None:
        """Forget which rows were touched."""

    @abstractmethod
    def rows_touched(self) -> int:
        """Distinct rows looked up in training mode since `begin_pass`."""


def bags_of(model: nn.Module) -> dict[str, TrainableBags]:
    """The collections of a model, by their path in it."""
    return {path: module for path, module in model.named_modules() if isinstance(module, TrainableBags)}


def dense_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Named parameters that an ordinary optimizer trains: all but those of the tables."""
    tables = tuple(f"{path}." for path in bags_of(model))
    return ((name, p) for name, p in model.named_parameters() if not name.startswith(tables or ("\0",)))
