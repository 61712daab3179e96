"""DeepFM (Guo et al., 2017, arXiv 1703.04247): first- and second-order terms and a deep part on the same embeddings.

sparse, F keys ─ SparseArch (bags) ─ e [B, F, D] ─┬─ e[:, :, 0]: first-order weights, summed ─────────┐
                                                  ├─ e[:, :, 1:]: all pairs' dot products (FM) ────── + ── logits [B]
dense [B, I] ─────────────────────────────────────┴─ flattened: MLP ───────────────────────────────────┘

Other than in the paper, the MLP sees the first-order weights too, and dense features are in the linear part and the MLP, but
not among the pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ml.models.mlp import Tower, first_order
from ml.models.sparse import SparseArch


class DeepFM(nn.Module):
    """bags: F features of one dimension D, of which one is the first-order weight. dense: how many dense features, or 0.
    deep: hidden widths."""

    def __init__(self, bags: EmbeddingBagCollectionInterface, dense: int, deep: Sequence[int], dropout: float = 0.0) -> None:
        super().__init__()
        self.sparse_arch = SparseArch(bags)
        self.deep = Tower(self.sparse_arch.F * self.sparse_arch.D + dense, deep, dropout=dropout)
        self.linear = first_order(dense) if dense else None

    def forward(self, dense: torch.Tensor, sparse: KeyedJaggedTensor) -> torch.Tensor:
        """dense: float32 [B, I], or [B, 0]. Gives logits, float32 [B]."""
        embedded = self.sparse_arch(sparse)
        factors = embedded[:, :, 1:]
        pairs = 0.5 * (factors.sum(1).square() - factors.square().sum(1)).sum(1)  # equation 2, in linear time (Rendle, 2010)
        logits = embedded[:, :, 0].sum(1) + pairs + self.deep(torch.cat((embedded.flatten(1), dense), 1)).squeeze(1)
        return logits + self.linear(dense).squeeze(1) if self.linear is not None else logits
