"""Hashed embedding tables: each 64-bit id is mapped to one of a fixed number of rows, and several ids can share a row.

FBGEMM's fused kernel looks up and trains rows. `ml.embeddings.fixed.id_to_row` defines which row an id reads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    BoundsCheckMode,
    ComputeDevice,
    EmbeddingLocation,
    PoolingMode,
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from ml.embeddings.fixed.base import FixedBags, generator_of, unweighted
from ml.embeddings.fixed.id_to_row import to_rows
from ml.embeddings.interface import TableStats, in_order


class HashedEmbeddingBags(FixedBags):
    """F hashed tables, one per feature, with row-wise Adagrad in the backward pass.

    The backward pass updates rows directly and does not store their gradients. An empty bag is pooled to zeros.

    Args:
        tables: The tables; each has one feature, and all have the same pooling.
        init_scale: First weights are drawn uniformly from [-init_scale, init_scale).
        lr: Learning rate, before any schedule.
        eps: Constant that is added to the square root of a row's accumulator.
        initial_accumulator: Initial value of each row's accumulator.
        seed: Seed of the first weights, combined with the table's name.

    Raises:
        ValueError: If a table has several features, or the poolings differ.

    Example:
        >>> tables = [EmbeddingBagConfig(name="t", embedding_dim=4, num_embeddings=10, feature_names=["f"])]
        >>> bags = HashedEmbeddingBags(tables, init_scale=0.1, lr=0.1, eps=1e-8, initial_accumulator=0.0, seed=0)
        >>> features = KeyedJaggedTensor(["f"], values=torch.tensor([7, -12345]), lengths=torch.tensor([1, 0, 1]))
        >>> bags(features)["f"].shape
        torch.Size([3, 4])
    """

    def __init__(
        self,
        tables: Sequence[EmbeddingBagConfig],
        *,
        init_scale: float,
        lr: float,
        eps: float,
        initial_accumulator: float,
        seed: int,
    ) -> None:
        super().__init__(tables, lr, {t.name: (t.num_embeddings, t.embedding_dim) for t in tables})
        self._dims = [table.embedding_dim for table in tables]
        if len(poolings := {table.pooling for table in tables}) > 1:
            raise ValueError(f"expected tables of one pooling, found {poolings}")
        self._tbe = SplitTableBatchedEmbeddingBagsCodegen(
            [(t.num_embeddings, t.embedding_dim, EmbeddingLocation.HOST, ComputeDevice.CPU) for t in tables],
            optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
            learning_rate=lr,
            eps=eps,
            pooling_mode=PoolingMode.MEAN if tables[0].pooling == PoolingType.MEAN else PoolingMode.SUM,
            bounds_check_mode=BoundsCheckMode.NONE,  # to_rows returns only rows of the table
            table_names=[t.name for t in tables],
        )
        self._sizes = torch.tensor([t.num_embeddings for t in tables])
        self._first_row = self._sizes.cumsum(0) - self._sizes
        accumulators = self.part_accumulators()
        for name, weight in self.part_weights().items():
            weight.uniform_(-init_scale, init_scale, generator=generator_of(seed, name))
            accumulators[name].fill_(initial_accumulator)

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        """Look up and pool rows.

        Args:
            features: Ids of at least the F features, keys in any order.

        Returns:
            Pooled rows, float32 [B, F * D], keys in the order of the tables.

        Raises:
            KeyError: If a feature is missing.
            ValueError: If the features have weights per sample.
        """
        features = unweighted(in_order(features, self._keys))
        of_key = torch.tensor(features.length_per_key())
        rows = to_rows(features.values(), torch.repeat_interleave(self._sizes, of_key))  # [N]
        pooled = self._tbe(rows, features.offsets().long())
        if self.training:
            self.row_steps.mark(rows + torch.repeat_interleave(self._first_row, of_key), pooled)
        return KeyedTensor(self._keys, self._dims, pooled)

    def set_learning_rate(self, lr: float) -> None:
        self._tbe.set_learning_rate(lr)

    def part_weights(self) -> dict[str, torch.Tensor]:
        tables = zip(self._configs, self._tbe.split_embedding_weights(), strict=True)
        return {config.name: weight.detach() for config, weight in tables}

    def part_accumulators(self) -> dict[str, torch.Tensor]:
        tables = zip(self._configs, self._tbe.split_optimizer_states(), strict=True)
        return {config.name: state.detach() for config, (state,) in tables}

    def stats(self) -> dict[str, TableStats]:
        return {name: TableStats(len(rows), rows.nbytes + 4 * len(rows)) for name, rows in self.part_weights().items()}
