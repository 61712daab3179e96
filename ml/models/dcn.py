"""DCN-v2 (Wang et al., 2021, arXiv 2008.13535): explicit feature crosses of bounded degree, stacked with or parallel to an MLP.

x0 = [e, dense] ─ cross layers: x <- x0 * (W x + b) + x (equation 1) ─┬─ stacked:  deep MLP of x ───────┬─ linear ── logits [B]
                                                                      └─ parallel: [x, deep MLP of x0] ─┘
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ml.models.mlp import MLP, heads, linear, main_logits
from ml.models.sparse import SparseArch


class CrossLayer(nn.Module):
    """One cross layer: x0 * (W x + b) + x (equation 1).

    Args:
        width: Width of the input and of the output.
        low_rank: Rank r of W = U V (equation 2); None for a full matrix.
    """

    def __init__(self, width: int, low_rank: int | None) -> None:
        super().__init__()
        down_up = [linear(width, low_rank, bias=False), linear(low_rank, width)] if low_rank else [linear(width, width)]
        self.weight = nn.Sequential(*down_up)

    def forward(self, x0: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Cross x with x0, float32 [B, width] each, into float32 [B, width]."""
        return torch.addcmul(x, x0, self.weight(x))


class DCNv2(nn.Module):
    """DCN-v2 over any collection of tables.

    Args:
        bags: F features of one dimension D.
        dense: Number of dense features I, or 0.
        deep: Hidden widths of the MLP.
        cross_layers: Number of cross layers.
        low_rank: Rank of the cross layers' matrices; None for full matrices.
        structure: Whether the MLP follows the cross layers (`stacked`) or reads the same input (`parallel`).
        dropout: As for `MLP`.
        labels: Number of labels L.

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
        >>> model = DCNv2(bags, dense=3, deep=[8], cross_layers=2)
        >>> model(torch.rand(2, 3), sparse).shape
        torch.Size([2])
    """

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
        labels: int = 1,
    ) -> None:
        super().__init__()
        self.sparse_arch = SparseArch(bags)
        width = self.sparse_arch.F * self.sparse_arch.D + dense
        self.cross = nn.ModuleList(CrossLayer(width, low_rank) for _ in range(cross_layers))
        self.deep = MLP(width, deep, dropout)
        self.stacked = structure == "stacked"
        self.over = heads(deep[-1] if self.stacked else width + deep[-1], labels)

    @property
    def output(self) -> nn.Linear:
        """The layer whose output is the logit, or a summand of it."""
        return self.over

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
        x0 = torch.cat((self.sparse_arch(sparse).flatten(1), dense), 1)  # [B, F D + I]
        x = x0
        for layer in self.cross:
            x = layer(x0, x)
        x = self.deep(x) if self.stacked else torch.cat((x, self.deep(x0)), 1)
        return self.over(x)
