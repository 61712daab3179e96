"""Wide & Deep (Cheng et al., 2016, arXiv 1606.07792): a linear model over ids and their crosses beside an MLP.

sparse, F keys ─┬─ with crosses of pairs ─ wide bags, 1 weight per id ─ summed ─ + ── logits [B]
                └─ SparseArch (bags) ─ e [B, F D] ─ deep MLP ────────────────────┤
dense [B, I] ───┴─────────────────────────────────── linear ─────────────────────┘

Unlike in the paper, the weights and embeddings of several ids of a feature are averaged and not summed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ml.models.crosses import with_crosses
from ml.models.mlp import LogitTower, first_order, main_logits
from ml.models.sparse import SparseArch


class WideDeep(nn.Module):
    """Wide & Deep over any collections of tables.

    Args:
        bags: F features of one dimension D, for the deep part.
        wide: Tables of dimension 1, for every feature and for every pair in `crosses`, named `a*b`.
        crosses: Pairs of single-valued features.
        dense: Number of dense features I, or 0.
        deep: Hidden widths of the MLP.
        dropout: As for `MLP`.
        labels: Number of labels L. They share the wide weights.

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
        >>> weights = [
        ...     EmbeddingBagConfig(name=f"wide_{name}", embedding_dim=1, num_embeddings=10, feature_names=[name])
        ...     for name in ("user", "item")
        ... ]
        >>> ids, lengths = torch.tensor([1, 2, 3, 4]), torch.tensor([1, 1, 1, 1])
        >>> sparse = KeyedJaggedTensor(["user", "item"], ids, lengths=lengths)
        >>> model = WideDeep(bags, EmbeddingBagCollection(tables=weights), crosses=[], dense=3, deep=[8])
        >>> model(torch.rand(2, 3), sparse).shape
        torch.Size([2])
    """

    def __init__(
        self,
        bags: EmbeddingBagCollectionInterface,
        wide: EmbeddingBagCollectionInterface,
        crosses: Sequence[tuple[str, str]],
        dense: int,
        deep: Sequence[int],
        dropout: float = 0.0,
        labels: int = 1,
    ) -> None:
        super().__init__()
        self.sparse_arch, self.wide, self.crosses = SparseArch(bags), wide, tuple(crosses)
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
        wide = self.wide(with_crosses(sparse, self.crosses)).values().sum(1)
        embedded = self.sparse_arch(sparse).flatten(1)
        logits = wide.unsqueeze(1) + self.deep(torch.cat((embedded, dense), 1))  # [B, L]
        return logits + self.linear(dense) if self.linear is not None else logits
