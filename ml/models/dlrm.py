"""DLRM (Naumov et al., 2019, arXiv 1906.00091).

dense [B, I] ─── bottom MLP ────────────── x [B, D] ──────────────────┬──────────────┐
(a constant 1 if there are no dense features)                         │              │
                                                                 interaction ─── top MLP ── + ── logits [B]
sparse, F keys ─ SparseArch (bags) ─ e [B, F, D] ────┬────────────────┘                     │
                                                     └────── linear shortcut (optional) ────┘
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import nn
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ml.models.mlp import MLP, Heads, LogitTower, init_as_torchrec, main_logits
from ml.models.sparse import SparseArch


class DotInteraction(nn.Module):
    """Concatenates the dense vector with the dot products of all pairs of the dense vector and the F embeddings.

    The pairs are selected from the flattened products with one index. TorchRec's module uses two indices, whose backward pass
    scatters and takes twice as long.

    Args:
        features: F.
        dim: D.

    Attributes:
        width: D + F (F + 1) / 2, the width of the output.
    """

    pairs: torch.Tensor

    def __init__(self, features: int, dim: int) -> None:
        super().__init__()
        n = features + 1
        first, second = torch.triu_indices(n, n, offset=1)
        self.register_buffer("pairs", first * n + second, persistent=False)
        self.width = dim + n * (n - 1) // 2

    def forward(self, dense: torch.Tensor, sparse: torch.Tensor) -> torch.Tensor:
        """Combine float32 [B, D] and float32 [B, F, D] into float32 [B, D + F (F + 1) / 2]."""
        vectors = torch.cat((dense.unsqueeze(1), sparse), dim=1)  # [B, F + 1, D]
        products = torch.bmm(vectors, vectors.transpose(1, 2))  # [B, F + 1, F + 1]
        return torch.cat((dense, products.flatten(1).index_select(1, self.pairs)), dim=1)


class CatInteraction(nn.Module):
    """Concatenates the dense vector and the F embeddings.

    Args:
        features: F.
        dim: D.

    Attributes:
        width: D + F D, the width of the output.
    """

    def __init__(self, features: int, dim: int) -> None:
        super().__init__()
        self.width = dim * (features + 1)

    def forward(self, dense: torch.Tensor, sparse: torch.Tensor) -> torch.Tensor:
        """Combine float32 [B, D] and float32 [B, F, D] into float32 [B, D + F D]."""
        return torch.cat((dense, sparse.flatten(1)), dim=1)


class DLRM(nn.Module):
    """DLRM over any collection of tables.

    Args:
        bags: F features of one dimension D.
        dense: Number of dense features I, or 0.
        bottom: Hidden widths of the bottom MLP; its output width is D.
        top: Hidden widths of the top MLP.
        interaction: `dot` or `cat`.
        linear_shortcut: Whether a linear function of all embeddings is added to the logit, like the first-order part of Wide &
            Deep (Cheng et al., 2016). Dot products of two small vectors learn slowly at first, which costs accuracy if there
            is only one pass over the data.
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
        >>> model = DLRM(bags, dense=3, bottom=[8], top=[8])
        >>> model(torch.rand(2, 3), sparse).shape
        torch.Size([2])
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
        labels: int = 1,
    ) -> None:
        super().__init__()
        self.sparse_arch = SparseArch(bags)
        features, dim = self.sparse_arch.F, self.sparse_arch.D
        self.has_dense = dense > 0
        self.bottom = MLP(max(dense, 1), [*bottom, dim], dropout)
        self.interaction = (DotInteraction if interaction == "dot" else CatInteraction)(features, dim)
        self.top = LogitTower(self.interaction.width, top, labels, dropout)
        self.shortcut = Heads(features * dim, labels, bias=False) if linear_shortcut else None
        init_as_torchrec(self)

    @property
    def output(self) -> nn.Linear:
        """The layer whose output is the logit, or a summand of it."""
        return cast(nn.Linear, self.top[-1])

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
        x = self.bottom(dense if self.has_dense else dense.new_ones(len(dense), 1))
        embedded = self.sparse_arch(sparse)
        logits = self.top(self.interaction(x, embedded))
        if self.shortcut is not None:
            logits = logits + self.shortcut(embedded.flatten(1))
        return logits
