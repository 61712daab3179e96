"""Collisionless tables behind TorchRec's `EmbeddingBagCollection` face: any 64-bit id has a row of its own, once admitted.

Rows are updated in the backward pass, each once by the sum of its gradients. What a row is and when it comes and goes is
`store`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from ml.embeddings.optimizers import RowOptimizer
from ml.embeddings.store import Store, TableRules


class CollisionlessEmbeddingBags(EmbeddingBagCollectionInterface):
    """Tables of one dimension D, for F features; several features may share one. `num_embeddings` of a config is not a bound.

    Time is told by `set_time` before a batch: event time, in microseconds. Evaluation admits, counts and touches nothing.

    >>> tables = [EmbeddingBagConfig(name="t", embedding_dim=4, num_embeddings=1, feature_names=["f"])]
    >>> bags = CollisionlessEmbeddingBags(tables, lr=0.1, init_scale=0.1)
    >>> features = KeyedJaggedTensor(["f"], values=torch.tensor([-1, 2**62]), lengths=torch.tensor([1, 0, 1]))
    >>> bags(features)["f"].shape, len(bags.store)
    (torch.Size([3, 4]), 2)
    """

    def __init__(
        self,
        tables: Sequence[EmbeddingBagConfig],
        *,
        lr: float,
        init_scale: float,
        optimizer: RowOptimizer | None = None,
        rules: Mapping[str, TableRules] | None = None,
        weighted: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self._configs, self._weighted, self.lr, self.now = list(tables), weighted, lr, 0
        dims = {table.embedding_dim for table in tables}
        if len(dims) != 1:
            raise ValueError(f"expected tables of one dimension, found {sorted(dims)}")
        self._dim = dims.pop()
        placed = [(feature, number) for number, table in enumerate(tables) for feature in table.feature_names]
        self._keys = [feature for feature, _ in placed]
        if len(set(self._keys)) != len(self._keys):
            raise ValueError(f"expected each feature in one table, found {self._keys}")
        self._tables = np.array([number for _, number in placed], np.int64)
        self._groups = np.sort(self._tables << 32 | np.arange(len(placed)))
        self._means = np.array([tables[number].pooling == PoolingType.MEAN for _, number in placed])
        chosen = [(rules or {}).get(table.name, TableRules(table.name)) for table in tables]
        self.store = Store(chosen, self._dim, optimizer or RowOptimizer(), init_scale, seed)
        # Autograd calls a backward only for what depends on something that wants a gradient.
        self._anchor = nn.Parameter(torch.empty(0))

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        """Pooled rows: KeyedTensor with values float32 [B, F * D], keys in the order of the tables; empty bags are zeros.

        The features' keys may come in any order. Raises `KeyError` where one is missing.
        """
        if features.keys() != self._keys:
            if missing := set(self._keys) - set(features.keys()):
                raise KeyError(f"sparse features {sorted(missing)} are not in the batch, which has {features.keys()}")
            features = features.permute([features.keys().index(key) for key in self._keys])
        ids, offsets = features.values().numpy(), features.offsets().numpy().astype(np.int64, copy=False)
        weights = features.weights().detach().numpy() if self._weighted else np.empty(0, np.float32)
        tables = np.repeat(self._tables, features.length_per_key())
        find = partial(self.store.find_for_training, now=self.now, lr=self.lr) if self.training else self.store.find
        rows = find(tables, ids)
        pooled = _Pool.apply(self._anchor, self, rows, offsets, weights)
        return KeyedTensor(self._keys, [self._dim] * len(self._keys), pooled)

    def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
        return self._configs

    def is_weighted(self) -> bool:
        return self._weighted

    def set_learning_rate(self, lr: float) -> None:
        """Of the backward passes to come."""
        self.lr = lr

    def set_time(self, now: int) -> None:
        """Event time of the batches to come, microseconds since 1970 UTC."""
        self.now = now


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(ctx, anchor, bags, rows, offsets, weights):  # type: ignore[no-untyped-def, override]
        ctx.bags, ctx.rows, ctx.offsets, ctx.bag_weights = bags, rows, offsets, weights
        return torch.from_numpy(bags.store.pool(rows, offsets, weights, bags._means))

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def, override]
        bags = ctx.bags
        bags.store.update(ctx.rows, ctx.offsets, ctx.bag_weights, bags._means, bags._groups, grad.contiguous().numpy(), bags.lr)
        return None, None, None, None, None
