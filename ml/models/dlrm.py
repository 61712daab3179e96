"""DLRM (Naumov et al., 2019, arXiv 1906.00091), from TorchRec's parts. Reading a recipe is `ml.models.build`.

dense [B, I] ─── DenseArch (MLP) ───────── x [B, D] ──────────────────┬──────────────┐
(a constant 1 where a log has no dense features)                      │              │
                                                             InteractionArch ── OverArch (MLP) ── + ── logits [B]
sparse, F keys ─ SparseArch (bags) ─ e [B, F, D] ────┬────── all pairs' dot products                │
                                                     └────── linear shortcut (on request) ──────────┘
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torchrec.models.dlrm import DenseArch, OverArch
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ml.models.sparse import SparseArch


class InteractionArch(nn.Module):
    """Dot products of all pairs among the dense vector and the F embeddings, after the dense vector itself.

    The same numbers as TorchRec's module of this name; taking the pairs from the flattened products with one index has
    half its cost, as the backward of a two-index gather scatters.
    """

    pairs: torch.Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        n = features + 1
        first, second = torch.triu_indices(n, n, offset=1)
        self.register_buffer("pairs", first * n + second, persistent=False)

    def forward(self, dense: torch.Tensor, sparse: torch.Tensor) -> torch.Tensor:
        """dense: [B, D]. sparse: [B, F, D]. Gives [B, D + F + F (F - 1) / 2]."""
        vectors = torch.cat((dense.unsqueeze(1), sparse), dim=1)
        products = torch.bmm(vectors, vectors.transpose(1, 2))
        return torch.cat((dense, products.flatten(1).index_select(1, self.pairs)), dim=1)


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
        linear_shortcut: bool = False,
    ) -> None:
        super().__init__()
        self.sparse_arch = SparseArch(bags)
        features, dim = self.sparse_arch.F, self.sparse_arch.D
        self.has_dense = dense > 0
        self.dense_arch = DenseArch(max(dense, 1), [*bottom, dim])
        self.inter_arch = InteractionArch(features)
        self.over_arch = OverArch(dim + features + features * (features - 1) // 2, [*top, 1])
        self.shortcut = nn.Linear(features * dim, 1, bias=False) if linear_shortcut else None

    def forward(self, dense: torch.Tensor, sparse: KeyedJaggedTensor) -> torch.Tensor:
        """dense: float32 [B, I]; where the log has no dense features, [B, 0]. Gives logits, float32 [B]."""
        x = self.dense_arch(dense if self.has_dense else dense.new_ones(len(dense), 1))
        embedded = self.sparse_arch(sparse)
        logits = self.over_arch(self.inter_arch(x, embedded))
        if self.shortcut is not None:
            logits = logits + self.shortcut(embedded.flatten(1))
        return logits.squeeze(1)
