"""Collisionless tables with TorchRec's `EmbeddingBagCollection` interface. Each admitted 64-bit id has its own row.

The backward pass updates each row of the batch once, by the sum of its gradients. `store` holds the rows, `state_dict` converts
them to tensors, and `deltas` creates and applies deltas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from ml.embeddings.collisionless import state_dict
from ml.embeddings.collisionless.batch import Occurrences
from ml.embeddings.collisionless.counters import Counters
from ml.embeddings.collisionless.deltas import (
    acknowledge,
    apply_delta,
    create_delta,
    register_receiver,
    shapes_of,
    trim_tombstones,
)
from ml.embeddings.collisionless.row_layout import STEP
from ml.embeddings.collisionless.store import Store
from ml.embeddings.delta import Delta, TableShape
from ml.embeddings.interface import TableStats, TrainableBags, in_order
from ml.embeddings.optimizers import RowOptimizer
from ml.embeddings.receivers import Receivers
from ml.embeddings.rules import TableRules


class CollisionlessEmbeddingBags(TrainableBags):
    """Collisionless tables of one dimension D for F features. Several features can share a table.

    In training mode, ids are counted and admitted. In evaluation mode, forward does not change the tables. `set_time` sets the
    event time of subsequent batches. Kernels use as many threads as torch. Weights per sample get no gradient.

    Args:
        tables: Name, dimension, features and pooling of each table. `num_embeddings` is ignored, because tables grow.
        lr: Learning rate, before any schedule.
        init_scale: First weights are uniform in [-init_scale, init_scale) and depend only on seed, table name and id.
        optimizer: Optimizer of the rows; by default row-wise Adagrad.
        rules: Admission, time to live and eviction by table name; by default, every id is admitted and kept.
        weighted: Whether features have a weight per id.
        seed: Seed of first weights and of probabilistic admission.
        receivers: Ledger of the receivers of deltas; by default, a new one that measures silence in event time.

    Raises:
        ValueError: If dimensions differ, a table name or feature occurs twice, or rules name an unknown table.

    Example:
        >>> tables = [EmbeddingBagConfig(name="t", embedding_dim=4, num_embeddings=1, feature_names=["f"])]
        >>> bags = CollisionlessEmbeddingBags(tables, lr=0.1, init_scale=0.1)
        >>> features = KeyedJaggedTensor(["f"], values=torch.tensor([-1, 2**62]), lengths=torch.tensor([1, 0, 1]))
        >>> bags(features)["f"].shape, len(bags.store)
        (torch.Size([3, 4]), 2)
    """

    sharded_by_id = True

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
        receivers: Receivers | None = None,
    ) -> None:
        super().__init__(lr)
        self._configs, self._weighted, self.lr, self.now = list(tables), weighted, lr, 0
        dims = {table.embedding_dim for table in tables}
        if len(dims) != 1:
            raise ValueError(f"expected tables of one dimension, found {sorted(dims)}")
        self._dim = dims.pop()
        placed = [(feature, number) for number, table in enumerate(tables) for feature in table.feature_names]
        self._keys = [feature for feature, _ in placed]
        if len(set(self._keys)) != len(self._keys):
            raise ValueError(f"expected each feature in one table, found {self._keys}")
        rules = checked_rules(tables, rules or {})
        self.store = Store(
            [rules[table.name] for table in tables],
            self._dim,
            optimizer or RowOptimizer(),
            init_scale,
            seed,
            features=[number for _, number in placed],
            means=[tables[number].pooling == PoolingType.MEAN for _, number in placed],
            receivers=receivers,
        )
        self._pass_began_at, self._counted_before = 0, Counters.zeros(len(self._configs))
        # Autograd runs a backward only for outputs that depend on a tensor which requires a gradient.
        self._anchor = nn.Parameter(torch.empty(0))

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        """Look up and pool rows.

        Args:
            features: Ids of at least the F features, keys in any order.

        Returns:
            Pooled rows, float32 [B, F * D], keys in the order of the tables; empty bags are zeros.

        Raises:
            KeyError: If a feature is missing.
            ValueError: If batch sizes differ between features, or lengths do not match the ids.
        """
        features = in_order(features, self._keys)
        if features.variable_stride_per_key():
            raise ValueError("expected the same batch size for all features")
        offsets = features.offsets().numpy().astype(np.int64, copy=False)
        batch = Occurrences(features.values().long().numpy(), offsets)
        if self._weighted:
            batch = batch._replace(weights=features.weights().detach().float().numpy())
        pooled = _Pool.apply(self._anchor, self, batch) if self.training else self._look_up(batch)
        return KeyedTensor(self._keys, [self._dim] * len(self._keys), pooled)

    def _look_up(self, batch: Occurrences) -> torch.Tensor:
        return torch.from_numpy(self.store.look_up(batch, torch.get_num_threads()))

    def get_extra_state(self) -> dict[str, dict[str, torch.Tensor]]:
        """Return the tensors of the tables, which `state_dict` stores although they are not parameters."""
        return {"weights": self.weights(), "training_state": self.training_state()}

    def set_extra_state(self, state: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        self.restore(state["weights"], state["training_state"])

    def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
        return self._configs

    def is_weighted(self) -> bool:
        return self._weighted

    def set_learning_rate(self, lr: float) -> None:
        self.lr = lr

    def set_time(self, now: int) -> None:
        self.now = now

    def weights(self) -> dict[str, torch.Tensor]:
        """Return copies of ids and weights; see `state_dict.weights`."""
        return state_dict.weights(self.store)

    def training_state(self) -> dict[str, torch.Tensor]:
        """Return copies of the tensors that only training needs.

        Returns:
            The tensors of `state_dict.training_state`, and `pass`, int64 [6, T]: the step and the counters of each table when
            the pass began.
        """
        began = np.stack([np.full(len(self._configs), self._pass_began_at), *self._counted_before.as_rows()])
        return state_dict.training_state(self.store) | {"pass": torch.from_numpy(began)}

    def restore(self, weights: Mapping[str, torch.Tensor], training_state: Mapping[str, torch.Tensor] | None) -> None:
        state_dict.restore(self.store, weights, training_state)
        if training_state is not None:
            began, *counters = training_state["pass"].numpy()
            self._pass_began_at, self._counted_before = int(began[0]), Counters(*(np.array(row) for row in counters))

    def set_rank_cap(self, rank: int, ranks: int) -> None:
        self.store.set_caps([share_of_cap(rule.max_rows, rank, ranks) for rule in self.store.rules])

    @property
    def step(self) -> int:
        return self.store.step

    def advance_to(self, step: int) -> None:
        self.store.step = max(self.store.step, step)

    def delta_shapes(self) -> Mapping[str, TableShape]:
        return shapes_of(self.store)

    def delta(self, since: int) -> Delta:
        return create_delta(self.store, since)

    def _write_delta(self, delta: Delta) -> None:
        apply_delta(self.store, delta)

    def begin_pass(self) -> None:
        """Reset the counts of `stats` and `rows_touched`, and delete tombstones that no receiver needs.

        Without registered receivers, deltas can only start from the current step or later.
        """
        trim_tombstones(self.store)
        self._pass_began_at, self._counted_before = self.store.step, self.store.counters.copy()

    def end_pass(self) -> None:
        """Delete rows and candidates that have not been seen for their table's time to live."""
        self.store.expire(self.store.time)

    def set_receiver_ttl(self, seconds: float) -> None:
        """Set the time of silence after which a receiver is dropped."""
        self.store.receivers.set_ttl(seconds)

    def register_receiver(self, name: str, step: int) -> None:
        """Keep tombstones for a receiver of deltas; see `deltas.register_receiver`."""
        register_receiver(self.store, name, step)

    def acknowledge(self, name: str, step: int) -> None:
        """Record that a receiver is at a step; see `deltas.acknowledge`."""
        acknowledge(self.store, name, step)

    def rows_touched(self) -> int:
        return int((self.store.array.words[1 : self.store.used, STEP] > self._pass_began_at).sum())

    def stats(self) -> dict[str, TableStats]:
        store = self.store
        candidates, counters = store.candidates.by_table(), store.counters.since(self._counted_before)
        nbytes = store.nbytes_by_table()
        return {
            config.name: TableStats(
                rows=int(store.live[number]),
                nbytes=int(nbytes[number]),
                candidates=int(candidates[number]),
                admitted=int(counters.admitted[number]),
                expired=int(counters.expired[number]),
                evicted=int(counters.evicted[number]),
                looked_up=int(counters.looked_up[number]),
                unknown=int(counters.unknown[number]),
            )
            for number, config in enumerate(self._configs)
        }


def share_of_cap(max_rows: int | None, rank: int, ranks: int) -> int | None:
    """Return one rank's share of a table's cap: an equal part, at least 1.

    If the cap is smaller than the number of ranks, the shares add up to more than the cap.

    Args:
        max_rows: Cap of the table; None for no cap.
        rank: The rank.
        ranks: Number of ranks.
    """
    return None if max_rows is None else max(1, max_rows // ranks + (rank < max_rows % ranks))


def checked_rules(tables: Sequence[EmbeddingBagConfig], rules: Mapping[str, TableRules]) -> dict[str, TableRules]:
    """Return the rules of each table by name, with default rules for tables that have none.

    Raises:
        ValueError: If two tables have the same name, or rules name an unknown table.
    """
    names = [table.name for table in tables]
    if len(set(names)) != len(names):
        raise ValueError(f"expected tables of different names, found {names}")
    if wrong := [name for name, rule in rules.items() if name not in names or rule.name != name]:
        raise ValueError(f"rules {wrong} do not match the tables {names}: each key must be the name of its table")
    return {name: rules.get(name, TableRules(name)) for name in names}


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(ctx, anchor, bags, batch):  # type: ignore[no-untyped-def, override]
        out, pending = bags.store.look_up_for_training(batch, bags.now, torch.get_num_threads())
        ctx.bags, ctx.pending = bags, pending
        return torch.from_numpy(out)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # type: ignore[no-untyped-def, override]
        ctx.bags.store.update(ctx.pending, grad.contiguous().numpy(), ctx.bags.lr)
        return None, None, None
