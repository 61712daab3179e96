"""Tables sharded across the ranks of a process group. Each row has one owner, which stores, counts and updates it.

The ids of a rank's batch are sent to their owners. The owners return rows, which are pooled on the rank that requested them.
The backward pass sends gradients to the owners. Tables that store ids are sharded by id; whole tables are assigned to ranks if
their size is fixed.

Because each row has one owner, the ranks compute the same results as one process that trains on the examples of all ranks in
rank order, with two exceptions. The cap of a table is divided among the ranks, and each rank evicts within its share. The
random numbers of probabilistic admission depend on the number of ranks.

TorchRec distributes static tables (`planned`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace

import torch
import torch.distributed as dist
from torch import nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from ml.embeddings.collisionless import state_dict
from ml.embeddings.delta import Delta, TableDelta, TableShape
from ml.embeddings.distributed.exchange import Exchange
from ml.embeddings.distributed.planned import PlannedBags
from ml.embeddings.fixed.static import StaticEmbeddingBags
from ml.embeddings.interface import TableStats, TrainableBags, in_order


class ShardedBags(TrainableBags):
    """A table collection whose rows are sharded across ranks. All ranks must make the same calls.

    Statistics cover this rank's share. Their sums over ranks cover the whole collection.

    Each rank counts its own updates, so steps can differ between ranks during a pass. `end_pass` and `delta` raise the steps of
    all ranks to the latest step. A receiver at the step of a delta, or of a snapshot that was taken after a pass, therefore
    does not miss later updates of any rank.

    Args:
        local: A new collection that was built identically on every rank. It stores this rank's share.
        group: Process group of the ranks; by default all processes.

    Raises:
        ValueError: If the features have weights per sample.

    Example:
        >>> import tempfile
        >>> from ml.embeddings.collisionless.bags import CollisionlessEmbeddingBags
        >>> store = dist.FileStore(tempfile.mktemp(), 1)
        >>> dist.init_process_group("gloo", store=store, rank=0, world_size=1)
        >>> tables = [EmbeddingBagConfig(name="t", embedding_dim=4, num_embeddings=1, feature_names=["f"])]
        >>> bags = ShardedBags(CollisionlessEmbeddingBags(tables, lr=0.1, init_scale=0.1))
        >>> bags(KeyedJaggedTensor(["f"], torch.tensor([7, -1]), lengths=torch.tensor([1, 0, 1])))["f"].shape
        torch.Size([3, 4])
        >>> dist.destroy_process_group()
    """

    def __init__(self, local: TrainableBags, group: dist.ProcessGroup | None = None) -> None:
        super().__init__(local.base_lr)
        if local.is_weighted():
            raise ValueError("tables with weights per sample cannot be sharded across ranks")
        self.local, self.group = local, group
        configs = local.embedding_bag_configs()
        self._keys = [feature for config in configs for feature in config.feature_names]
        self._dim = configs[0].embedding_dim
        self.rank, self.ranks = dist.get_rank(group), dist.get_world_size(group)
        self.sharded_by_id = local.sharded_by_id
        self._tables = [config.name for config in configs]
        # For tables that are assigned as a whole; each of them has one feature.
        self._owner = {config.name: number % self.ranks for number, config in enumerate(configs)}
        local.set_rank_cap(self.rank, self.ranks)
        self._exchange = Exchange(
            local,
            self._keys,
            torch.tensor([c.pooling == PoolingType.MEAN for c in configs for _ in c.feature_names]),
            self._dim,
            self.owners,
            self.ranks,
            group,
        )
        self._anchor = nn.Parameter(torch.empty(0))

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        """Look up and pool the rows of this rank's examples.

        Args:
            features: Ids of at least the F features, keys in any order.

        Returns:
            Pooled rows, float32 [B, F * D], keys in the order of the tables.

        Raises:
            KeyError: If a feature is missing.
        """
        pooled = self._exchange.pool(self._anchor, in_order(features, self._keys), self.training)
        return KeyedTensor(self._keys, [self._dim] * len(self._keys), pooled)

    def owners(self, ids: torch.Tensor, feature: torch.Tensor) -> torch.Tensor:
        """Return the rank that owns each occurrence.

        Args:
            ids: Id of each occurrence, int64 [N].
            feature: Index of each occurrence's feature, int64 [N].

        Returns:
            int64 [N].
        """
        if self.local.sharded_by_id:
            return torch.from_numpy(state_dict.shard_of(ids.numpy(), self.ranks))
        return feature % self.ranks

    def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
        return self.local.embedding_bag_configs()

    def set_learning_rate(self, lr: float) -> None:
        self.local.set_learning_rate(lr)

    def set_time(self, now: int) -> None:
        self.local.set_time(now)

    def dense_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        return self.local.dense_parameters()

    def weights(self) -> dict[str, torch.Tensor]:
        """Return copies of the tensors that predictions need.

        Returns:
            This rank's share if tables are sharded by id; otherwise all tables, on every rank.
        """
        return self.local.weights() if self.sharded_by_id else self._broadcast(self.local.weights())

    def training_state(self) -> dict[str, torch.Tensor]:
        """Return copies of the tensors that only training needs.

        Returns:
            This rank's share if tables are sharded by id; otherwise all tables, on every rank.
        """
        return self.local.training_state() if self.sharded_by_id else self._broadcast(self.local.training_state())

    def restore(self, weights: Mapping[str, torch.Tensor], training_state: Mapping[str, torch.Tensor] | None) -> None:
        """Restore this rank's share from the tensors of the complete tables.

        Args:
            weights: The merged tensors of `weights` of all ranks.
            training_state: The merged tensors of `training_state` of all ranks; None restores the weights only.

        Raises:
            ValueError: If the tensors do not match the tables.
        """
        if self.sharded_by_id:
            share = state_dict.shard({**weights, **(training_state or {})}, self._tables, self.rank, self.ranks)
            weights, rest = state_dict.split_optimizer_state(share, self._tables)
            self.local.restore(weights, None if training_state is None else rest)
        else:
            self.local.restore(weights, None if training_state is None else self._own_steps(training_state))

    def stats(self) -> dict[str, TableStats]:
        own = self.local.stats()
        if self.sharded_by_id:
            return own
        nothing = TableStats(**{field.name: 0 for field in fields(TableStats)})
        return {name: stats if self._owner[name] == self.rank else nothing for name, stats in own.items()}

    def begin_pass(self) -> None:
        self.local.begin_pass()

    def end_pass(self) -> None:
        self.local.end_pass()
        self._align_steps()

    def rows_touched(self) -> int:
        return self.local.rows_touched()

    @property
    def step(self) -> int:
        return self.local.step

    def advance_to(self, step: int) -> None:
        self.local.advance_to(step)

    def delta_shapes(self) -> Mapping[str, TableShape]:
        return self.local.delta_shapes()

    def delta(self, since: int) -> Delta:
        """Return the changes of this rank's share. All ranks must call it.

        `ml.embeddings.delta.merge_deltas` merges the deltas of all ranks.

        Args:
            since: An earlier step of this collection.

        Raises:
            Gap: If `since` is later than the current step, or if older changes are no longer available.
        """
        self._align_steps()
        found = self.local.delta(since)
        return found if self.sharded_by_id else self._own_share(found)

    def register_receiver(self, name: str, step: int) -> None:
        self.local.register_receiver(name, step)

    def set_receiver_ttl(self, seconds: float) -> None:
        self.local.set_receiver_ttl(seconds)

    def acknowledge(self, name: str, step: int) -> None:
        self.local.acknowledge(name, step)

    def accepts(self, delta: Delta) -> bool:
        """Check a delta of the complete tables; see `DeltaReceiver.accepts`. All ranks must call it."""
        self._align_steps()
        return super().accepts(delta)

    def _write_delta(self, delta: Delta) -> None:
        """Apply this rank's share of a delta of the complete tables."""
        self.local.apply_delta(self._own_share(delta))

    def _own_share(self, delta: Delta) -> Delta:
        """Select the rows that this rank owns."""
        tables = {}
        for name, table in delta.tables.items():
            if self.sharded_by_id:
                rows, deleted = (self._owned(ids) for ids in (table.keys, table.deleted))
            else:
                mine = self._owner[self._table_of(f"{name}.") or name] == self.rank
                rows, deleted = (torch.full((len(ids),), mine) for ids in (table.keys, table.deleted))
            seen = None if table.seen is None else table.seen[rows]
            tables[name] = TableDelta(table.keys[rows], table.weights[rows], seen, table.deleted[deleted], table.format)
        return replace(delta, tables=tables)

    def _owned(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(state_dict.shard_of(ids.numpy(), self.ranks) == self.rank)

    def _align_steps(self) -> None:
        """Raise the steps of all ranks to the latest step."""
        latest = torch.tensor(self.local.step)
        dist.all_reduce(latest, dist.ReduceOp.MAX, group=self.group)
        self.local.advance_to(int(latest))

    def _broadcast(self, share: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Copy the tensors of each table from its owner to all ranks. Other tensors are equal on all ranks."""
        found = {}
        for name, tensor in share.items():
            found[name], table = tensor.clone(), self._table_of(name)
            if table is not None:
                dist.broadcast(found[name], group_src=self._owner[table], group=self.group)
        return found

    def _own_steps(self, whole: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Set the row steps of other ranks' tables to zero, so that only their owners count their rows as touched."""
        found = dict(whole)
        for name, tensor in whole.items():
            table = self._table_of(name)
            if table is not None and name.endswith(".row_step") and self._owner[table] != self.rank:
                found[name] = torch.zeros_like(tensor)
        return found

    def _table_of(self, name: str) -> str | None:
        """Return the table that a tensor belongs to; None if it belongs to the collection."""
        return max((table for table in self._tables if name.startswith(f"{table}.")), key=len, default=None)


def shard_tables(model: nn.Module, group: dist.ProcessGroup | None = None, by_id: bool = True) -> None:
    """Replace the table collections of a model with sharded ones.

    Args:
        model: A new model that was built identically on every rank.
        group: Process group of the ranks; by default all processes.
        by_id: True also shards tables that store ids. With False, each rank trains its own copy of them (`replicas`).
    """
    for module in list(model.modules()):
        if isinstance(module, ShardedBags):
            continue
        for name, child in list(module.named_children()):
            if isinstance(child, StaticEmbeddingBags):
                setattr(module, name, PlannedBags(child, group))
            elif isinstance(child, TrainableBags) and not isinstance(child, ShardedBags | PlannedBags):
                if child.sharded_by_id and not by_id:
                    continue
                setattr(module, name, ShardedBags(child, group))
