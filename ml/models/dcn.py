"""DCN-v2 (Wang et al., 2021, arXiv 2008.13535): explicit crosses of bounded degree, and a deep part after or beside them.

x0 = [e, dense] ─ cross layers: x <- x0 * (W x + b) + x (equation 1) ─┬─ stacked:  deep MLP of x ───────┬─ linear ── logits [B]
                                                                      └─ parallel: beside one of x0 ────┘
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ml.models.mlp import MLP, linear
from ml.models.sparse import SparseArch


class CrossLayer(nn.Module):
    """x0 * (W x + b) + x; with a rank r, W = U V of that rank (equation 2)."""

    def __init__(self, width: int, low_rank: int | None) -> None:
        super().__init__()
        down_up = [linear(width, low_rank, bias=False), linear(low_rank, width)] if low_rank else [linear(width, width)]
        self.weight = nn.Sequential(*down_up)

    def forward(self, x0: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Both [B, width], and so is what it gives."""
        return torch.addcmul(x, x0, self.weight(x))


class DCNv2(nn.Module):
    """bags: F features of one dimension D. dense: how many dense features, or 0. deep: hidden widths."""

    def __init__(
        self,
        bags: EmbeddingBagCollectionInterface,
        dense: int,
        deep: Sequence[int],
        *,
        cross_layers: int,
        low_rank: int | None = None,
        structure: Literal["stacked", "parallel"] = "parallel",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.sparse_arch = SparseArch(bags)
        width = self.sparse_arch.F * self.sparse_arch.D + dense
        self.cross = nn.ModuleList(CrossLayer(width, low_rank) for _ in range(cross_layers))
        self.deep = MLP(width, deep, dropout)
        self.stacked = structure == "stacked"
        self.over = linear(deep[-1] if self.stacked else width + deep[-1], 1)

    def forward(self, dense: torch.Tensor, sparse: KeyedJaggedTensor) -> torch.Tensor:
        """dense: float32 [B, I], or [B, 0]. Gives logits, float32 [B]."""
        x0 = torch.cat((self.sparse_arch(sparse).flatten(1), dense), 1)
        x = x0
        for layer in self.cross:
            x = layer(x0, x)
        x = self.deep(x) if self.stacked else torch.cat((x, self.deep(x0)), 1)
        return self.over(x).squeeze(1)
