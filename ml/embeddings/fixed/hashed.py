"""Static embedding tables behind TorchRec's `EmbeddingBagCollection` face: ids are remapped to rows, rows are looked up
and trained by FBGEMM's fused kernel. Nothing here knows what model stands on it; tables that grow and forget wear the
same face beside this module.
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

from ml.embeddings.fixed.id_to_row import to_rows
from ml.embeddings.interface import TableStats, TrainableBags, features_of, generator_of, in_order, plain


class HashedEmbeddingBags(TrainableBags):
    """F tables of one dimension D and one pooling, a table per feature, with row-wise Adagrad in the backward pass.

    A forward in training mode is followed by a backward, which updates the rows at once with the learning rate of
    `set_learning_rate`; gradients of table rows are nowhere kept. Missing values and empty bags: see
    `ml.embeddings.fixed.id_to_row`; an empty bag gives zeros.

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
        super().__init__(lr)
        self._configs, self._keys = list(tables), features_of(tables)
        self._dims = [table.embedding_dim for table in tables]
        if len(poolings := {table.pooling for table in tables}) > 1:
            raise ValueError(f"expected tables of one pooling, found {poolings}")
        self._tbe = SplitTableBatchedEmbeddingBagsCodegen(
            [(t.num_embeddings, t.embedding_dim, EmbeddingLocation.HOST, ComputeDevice.CPU) for t in tables],
            optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
            learning_rate=lr,
            eps=eps,
            pooling_mode=PoolingMode.MEAN if tables[0].pooling == PoolingType.MEAN else PoolingMode.SUM,
            bounds_check_mode=BoundsCheckMode.NONE,  # rows come from to_rows, which can not leave the table
            table_names=[t.name for t in tables],
        )
        self.rows = torch.tensor([t.num_embeddings for t in tables])
        self.first_row = self.rows.cumsum(0) - self.rows
        self.touched = torch.zeros(int(self.rows.sum()), dtype=torch.bool)
        states = zip(tables, self._tbe.split_embedding_weights(), self._tbe.split_optimizer_states(), strict=True)
        for table, weight, (accumulator,) in states:
            weight.data.uniform_(-init_scale, init_scale, generator=generator_of(seed, table.name))
            accumulator.fill_(initial_accumulator)

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        """Pooled rows: KeyedTensor with values float32 [B, F * D], keys in the order of the tables.

        The features' keys may come in any order. Raises `KeyError` where one is missing.
        """
        features = plain(in_order(features, self._keys))
        of_key = torch.tensor(features.length_per_key())
        rows = to_rows(features.values(), torch.repeat_interleave(self.rows, of_key))
        if self.training:
            self.touched[rows + torch.repeat_interleave(self.first_row, of_key)] = True
        return KeyedTensor(self._keys, self._dims, self._tbe(rows, features.offsets().long()))

    def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
        return self._configs

    def set_learning_rate(self, lr: float) -> None:
        self._tbe.set_learning_rate(lr)

    def weights(self) -> dict[str, torch.Tensor]:
        """`<table>.weight`: float32 [rows, D]."""
        tables = zip(self._configs, self._tbe.split_embedding_weights(), strict=True)
        return {f"{config.name}.weight": weight.detach() for config, weight in tables}

    def training_state(self) -> dict[str, torch.Tensor]:
        """`<table>.accumulator`: float32 [rows], row-wise Adagrad's sums of mean squares. `touched`: bool [sum of rows]."""
        tables = zip(self._configs, self._tbe.split_optimizer_states(), strict=True)
        return {f"{config.name}.accumulator": state.detach() for config, (state,) in tables} | {"touched": self.touched}

    def stats(self) -> dict[str, TableStats]:
        tables = zip(self._configs, self._tbe.split_embedding_weights(), strict=True)
        return {config.name: TableStats(len(weight), weight.nbytes + 4 * len(weight)) for config, weight in tables}

    def begin_pass(self) -> None:
        self.touched.zero_()

    def rows_touched(self) -> int:
        return int(self.touched.sum())
