"""DLRM (Naumov et al., 2019, arXiv 1906.00091). Reading a recipe is `ml.models.build`.

dense [B, I] ─── bottom MLP ────────────── x [B, D] ──────────────────┬──────────────┐
(a constant 1 where a log has no dense features)                      │              │
                                                                 interaction ─── top MLP ── + ── logits [B]
sparse, F keys ─ SparseArch (bags) ─ e [B, F, D] ────┬────────────────┘                     │
                                                     └────── linear shortcut (on request) ──┘
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ml.models.mlp import MLP, Tower, begin_as_torchrec
from ml.models.sparse import SparseArch


class DotInteraction(nn.Module):
    """Dot products of all pairs among the dense vector and the F embeddings, after the dense vector itself.

    Taking the pairs from the flattened products with one index has half the cost of TorchRec's two, whose backward scatters.
    """

    pairs: torch.Tensor

    def __init__(self, features: int, dim: int) -> None:
        super().__init__()
        n = features + 1
        first, second = torch.triu_indices(n, n, offset=1)
        self.register_buffer("pairs", first * n + second, persistent=False)
        self.width = dim + n * (n - 1) // 2

    def forward(self, dense: torch.Tensor, sparse: torch.Tensor) -> torch.Tensor:
        """dense: [B, D]. sparse: [B, F, D]. Gives [B, D + F (F + 1) / 2]."""
        vectors = torch.cat((dense.unsqueeze(1), sparse), dim=1)
        products = torch.bmm(vectors, vectors.transpose(1, 2))
        return torch.cat((dense, products.flatten(1).index_select(1, self.pairs)), dim=1)


class CatInteraction(nn.Module):
    """The dense vector and the F embeddings side by side."""

    def __init__(self, features: int, dim: int) -> None:
        super().__init__()
        self.width = dim * (features + 1)

    def forward(self, dense: torch.Tensor, sparse: torch.Tensor) -> torch.Tensor:
        """dense: [B, D]. sparse: [B, F, D]. Gives [B, D + F D]."""
        return torch.cat((dense, sparse.flatten(1)), dim=1)


class DLRM(nn.Module):
    """bags: F features of one dimension D. dense: how many dense features, or 0. bottom, top: hidden widths.

    linear_shortcut adds a linear function of all embeddings to the logit, the first-order terms of Wide & Deep (Cheng et
    al., 2016): dot products of two small vectors are slow to start, and one pass over the data does not wait.
    """

    def __init__(
        self,
        bags: EmbeddingBagCollectionInterface,
        dense: int,
        bottom: Sequence[int],
        top: Sequence[int],
        *,
        interaction: Literal["dot", "cat"] = "dot",
        linear_shortcut: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.sparse_arch = SparseArch(bags)
        features, dim = self.sparse_arch.F, self.sparse_arch.D
        self.has_dense = dense > 0
        self.bottom = MLP(max(dense, 1), [*bottom, dim], dropout)
        self.interaction = (DotInteraction if interaction == "dot" else CatInteraction)(features, dim)
        self.top = Tower(self.interaction.width, top, dropout=dropout)
        self.shortcut = nn.Linear(features * dim, 1, bias=False) if linear_shortcut else None
        begin_as_torchrec(self)

    def forward(self, dense: torch.Tensor, sparse: KeyedJaggedTensor) -> torch.Tensor:
        """dense: float32 [B, I]; where the log has no dense features, [B, 0]. Gives logits, float32 [B]."""
        x = self.bottom(dense if self.has_dense else dense.new_ones(len(dense), 1))
        embedded = self.sparse_arch(sparse)
        logits = self.top(self.interaction(x, embedded))
        if self.shortcut is not None:
            logits = logits + self.shortcut(embedded.flatten(1))
        return logits.squeeze(1)
