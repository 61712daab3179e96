"""One compositional table: its rows, and the operation that combines them. Partitions select the rows of an id."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    BoundsCheckMode,
    ComputeDevice,
    EmbeddingLocation,
    PoolingMode,
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torch import nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType

from ml.embeddings.fixed.partitions import PATH_WIDTH, Partitions, widths_of
from ml.embeddings.rules import Operation

_AROUND_ONE = 0.1


@dataclass(frozen=True)
class Composition:
    """How the rows of a compositional table are selected and combined.

    Args:
        partitions: Mapping from an id to codes; each code selects a row.
        operation: Operation that combines the rows.
        dim: Number of weights in a row before the projection; for operation `project` only.

    Example:
        >>> from ml.embeddings.fixed.partitions import partitions_for
        >>> Composition(partitions_for("quotient_remainder", universe=1000, rows=80), operation="add").partitions.sizes
        (64, 16)
    """

    partitions: Partitions
    operation: Operation
    dim: int | None = None


class CompositionalTable(nn.Module):
    """One table with k parts: `forward(codes [k, N], lengths [B])` returns its bags, float32 [B, D]."""

    def __init__(
        self,
        config: EmbeddingBagConfig,
        composition: Composition,
        init_scale: float,
        lr: float,
        eps: float,
        initial_accumulator: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.dim, self.mean = config.embedding_dim, config.pooling == PoolingType.MEAN
        self.partitions, self.operation = composition.partitions, composition.operation
        self.sizes = self.partitions.sizes
        self.widths = widths_of(config.name, self.dim, composition.partitions, composition.operation, composition.dim)
        self.rows = SplitTableBatchedEmbeddingBagsCodegen(
            [(s, w, EmbeddingLocation.HOST, ComputeDevice.CPU) for s, w in zip(self.sizes, self.widths, strict=True)],
            optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
            learning_rate=lr,
            eps=eps,
            pooling_mode=PoolingMode.SUM,  # bags of one row: FBGEMM's unpooled look-up needs equal widths
            bounds_check_mode=BoundsCheckMode.NONE,  # codes are below their sizes
        )
        self.projection = None
        if self.operation == "project":
            spread = math.sqrt(3 / self.widths[0])  # uniform in [-spread, spread) has variance 1 / d
            matrix = torch.empty(self.widths[0], self.dim).uniform_(-spread, spread, generator=generator)
            self.projection = nn.Parameter(matrix)
        for part, weight in enumerate(self.rows.split_embedding_weights()):
            low, high = self._first_weights(part, init_scale)
            weight.detach().uniform_(low, high, generator=generator)
        for (state,) in self.rows.split_optimizer_states():
            state.fill_(initial_accumulator)

    @property
    def nbytes(self) -> int:
        """Size of rows, accumulators and projection in bytes."""
        rows = sum(4 * size * (width + 1) for size, width in zip(self.sizes, self.widths, strict=True))
        return rows + (self.projection.nbytes if self.projection is not None else 0)

    def codes(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the row of each id in each part, int64 [k, N]. ids: int64 [N]."""
        return torch.from_numpy(self.partitions.codes(ids.numpy()))

    def forward(self, codes: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        found = self.rows(codes.view(-1), torch.arange(codes.numel() + 1))  # [N, sum of widths]
        return self._pooled(self._combined(found), lengths)

    def _combined(self, found: torch.Tensor) -> torch.Tensor:
        """Combine rows, float32 [N, sum of widths], into embeddings, float32 [N, D]."""
        if self.operation == "concat":
            return found
        if self.projection is not None:
            return found @ self.projection
        first, *rest = found.split(list(self.widths), dim=1)
        for part in rest:
            if self.operation == "add":
                first = first + part
            elif self.operation == "mult":
                first = first * part
            else:
                first = first + _mlp(part, first)
        return first

    def _pooled(self, embedded: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        if len(embedded) == len(lengths) and bool((lengths == 1).all()):
            return embedded
        bag = torch.repeat_interleave(torch.arange(len(lengths)), lengths.long())
        if self.mean:
            embedded = embedded / lengths[bag].unsqueeze(1)
        return embedded.new_zeros(len(lengths), self.dim).index_add(0, bag, embedded)

    def _first_weights(self, part: int, scale: float) -> tuple[float, float]:
        """Return bounds of a part's first weights. First embeddings then have the variance of uniform in [-scale, scale)."""
        if self.operation == "add":
            return -scale / math.sqrt(len(self.sizes)), scale / math.sqrt(len(self.sizes))
        if part and self.operation == "mult":
            return 1 - _AROUND_ONE, 1 + _AROUND_ONE
        if part and self.operation == "path":
            bound = min(1 / math.sqrt(self.dim) / PATH_WIDTH, scale)  # for any scale, each MLP adds little at first
            return -bound, bound
        return -scale, scale


def _mlp(weights: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Apply N different MLPs to N vectors.

    Args:
        weights: Weights of the MLPs, float32 [N, PATH_WIDTH * (2 D + 1) and padding].
        x: Vectors, float32 [N, D].

    Returns:
        float32 [N, D].
    """
    n, dim = x.shape
    into, back = PATH_WIDTH * dim, 2 * PATH_WIDTH * dim
    hidden = torch.bmm(weights[:, :into].view(n, PATH_WIDTH, dim), x.unsqueeze(2)).squeeze(2)
    hidden = torch.relu(hidden + weights[:, back : back + PATH_WIDTH])
    return torch.bmm(weights[:, into:back].view(n, dim, PATH_WIDTH), hidden.unsqueeze(2)).squeeze(2)
