"""DeepFM (Guo et al., 2017, arXiv 1703.04247): first-order terms, second-order terms and an MLP share the same embeddings.

sparse, F keys ─ SparseArch (bags) ─ e [B, F, D] ─┬─ e[:, :, 0]: first-order weights, summed ─────────┐
                                                  ├─ e[:, :, 1:]: all pairs' dot products (FM) ────── + ── logits [B]
dense [B, I] ─────────────────────────────────────┴─ flattened: MLP ───────────────────────────────────┘

Two things differ from the paper. The MLP also reads the first-order weights, and dense features enter the linear part and the
MLP but not the pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ml.models.mlp import LogitTower, first_order, main_logits
from ml.models.sparse import SparseArch


class DeepFM(nn.Module):
    """DeepFM over any collection of tables.

    Args:
        bags: F features of one dimension D. The first component of an embedding is its first-order weight, the others are its
            factors.
        dense: Number of dense features I, or 0.
        deep: Hidden widths of the MLP.
        dropout: As for `MLP`.
        labels: Number of labels L. They share the first-order and second-order terms of the embeddings.

    Example:
        >>> import torch
        >>> from torchrec.modules.embedding_configs import EmbeddingBagConfig
        >>> from torchrec.modules.embedding_modules import EmbeddingBagCollection
        >>> from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
        >>> tables = [
        ...     EmbeddingBagConfig(name=name, embedding_dim=4, num_embeddings=10, feature_names=[name])
        ...     for name in ("user", "item")
        ... ]
        >>> bags = EmbeddingBagCollection(tables=tables)
        >>> ids, lengths = torch.tensor([1, 2, 3, 4, 5]), torch.tensor([1, 1, 2, 1])  # the first row has two items
        >>> sparse = KeyedJaggedTensor(["user", "item"], ids, lengths=lengths)
        >>> model = DeepFM(bags, dense=3, deep=[8])
        >>> model(torch.rand(2, 3), sparse).shape
        torch.Size([2])
    """

    def __init__(
        self,
        bags: EmbeddingBagCollectionInterface,
        dense: int,
        deep: Sequence[int],
        dropout: float = 0.0,
        labels: int = 1,
    ) -> None:
        super().__init__()
        self.sparse_arch = SparseArch(bags)
        self.deep = LogitTower(self.sparse_arch.F * self.sparse_arch.D + dense, deep, labels, dropout)
        self.linear = first_order(dense, labels) if dense else None

    @property
    def output(self) -> nn.Linear:
        """The layer whose output is the logit, or a summand of it."""
        return cast(nn.Linear, self.deep[-1])

    def forward(self, dense: torch.Tensor, sparse: KeyedJaggedTensor) -> torch.Tensor:
        """Compute the logits of the main label.

        Args:
            dense: float32 [B, I], or [B, 0] without dense features.
            sparse: F keys, B rows.

        Returns:
            float32 [B].
        """
        return main_logits(self.logits(dense, sparse))

    def logits(self, dense: torch.Tensor, sparse: KeyedJaggedTensor) -> torch.Tensor:
        """Compute the logits of all labels from the same arguments as `forward`, float32 [B, L], the main label first."""
        embedded = self.sparse_arch(sparse)  # [B, F, D]
        factors = embedded[:, :, 1:]
        pairs = 0.5 * (factors.sum(1).square() - factors.square().sum(1)).sum(1)  # equation 2, in linear time (Rendle, 2010)
        shared = (embedded[:, :, 0].sum(1) + pairs).unsqueeze(1)
        logits = shared + self.deep(torch.cat((embedded.flatten(1), dense), 1))  # [B, L]
        return logits + self.linear(dense) if self.linear is not None else logits
