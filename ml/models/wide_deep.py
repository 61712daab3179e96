"""Wide & Deep (Cheng et al., 2016, arXiv 1606.07792): a linear model over ids and their crosses remembers, an MLP generalises.

sparse, F keys ─┬─ with crosses of pairs ─ wide bags, a weight an id ─ summed ── + ── logits [B]
                └─ SparseArch (bags) ─ e [B, F D] ─ deep MLP ────────────────────┤
dense [B, I] ───┴─────────────────────────────────── linear ─────────────────────┘

Other than in the paper, weights and embeddings of several ids of a feature are averaged, not summed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ml.models.crosses import with_crosses
from ml.models.mlp import Tower, first_order
from ml.models.sparse import SparseArch


class WideDeep(nn.Module):
    """bags: F features of one dimension D. wide: one weight an id, of every feature and of every pair in `crosses`, named
    `a*b`. dense: how many dense features, or 0. deep: hidden widths."""

    def __init__(
        self,
        bags: EmbeddingBagCollectionInterface,
        wide: EmbeddingBagCollectionInterface,
        crosses: Sequence[tuple[str, str]],
        dense: int,
        deep: Sequence[int],
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.sparse_arch, self.wide, self.crosses = SparseArch(bags), wide, tuple(crosses)
        self.deep = Tower(self.sparse_arch.F * self.sparse_arch.D + dense, deep, dropout=dropout)
        self.linear = first_order(dense) if dense else None

    def forward(self, dense: torch.Tensor, sparse: KeyedJaggedTensor) -> torch.Tensor:
        """dense: float32 [B, I], or [B, 0]. Gives logits, float32 [B]."""
        remembered = self.wide(with_crosses(sparse, self.crosses)).values().sum(1)
        embedded = self.sparse_arch(sparse).flatten(1)
        logits = remembered + self.deep(torch.cat((embedded, dense), 1)).squeeze(1)
        return logits + self.linear(dense).squeeze(1) if self.linear is not None else logits
