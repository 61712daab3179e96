"""Tables shared out among the ranks of a process group: each id has one owner, who alone holds, counts and updates its row.

A rank's ids go to their owners, rows come back and are pooled where they were asked for; in the backward pass gradients take
the same way. Tables that grow are divided by id, those of a fixed size by feature, so that no row has two owners: the ranks
together do what one process would do on all of their rows, in the order of the ranks. But a cap on a table's rows is divided
too, what makes way is chosen within a share, and chance admission draws anew by the number of ranks. Static tables are
TorchRec's to place (`planned`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.autograd.function import once_differentiable
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from ml.embeddings.collisionless import state_dict
from ml.embeddings.distributed.exchange_plan import pool, route, spread
from ml.embeddings.distributed.planned import PlannedBags
from ml.embeddings.fixed.static import StaticEmbeddingBags
from ml.embeddings.interface import TableStats, TrainableBags, in_order


class ShardedBags(TrainableBags):
    """local: new tables, made alike on every rank, each of which has its share from now on. All must make the same calls.

    Figures are of this rank's share: those of the whole are their sums over ranks.
    """

    def __init__(self, local: TrainableBags, group: dist.ProcessGroup | None = None) -> None:
        super().__init__(local.base_lr)
        if local.is_weighted():
            raise ValueError("tables with weights per sample are not shared out among processes")
        self.local, self.group = local, group
        configs = local.embedding_bag_configs()
        self._keys = [feature for config in configs for feature in config.feature_names]
        self._means = torch.tensor([c.pooling == PoolingType.MEAN for c in configs for _ in c.feature_names])
        self._dim = configs[0].embedding_dim
        self.rank, self.ranks = dist.get_rank(group), dist.get_world_size(group)
        self.sharded_by_id = local.sharded_by_id
        self._tables = [config.name for config in configs]
        # Of tables divided by feature, each of which has one.
        self._owner = {config.name: number % self.ranks for number, config in enumerate(configs)}
        local.set_rank_cap(self.rank, self.ranks)
        self._anchor = nn.Parameter(torch.empty(0))

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        """Pooled rows of this rank's examples: KeyedTensor with values float32 [B, F * D], keys in the order of the tables."""
        pooled = _Exchange.apply(self._anchor, self, in_order(features, self._keys))
        return KeyedTensor(self._keys, [self._dim] * len(self._keys), pooled)

    def owners(self, ids: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        """Which rank has each occurrence, int64 [N]. key: int64 [N], the number of its feature."""
        if self.local.sharded_by_id:
            return torch.from_numpy(state_dict.shard_of(ids.numpy(), self.ranks))
        return key % self.ranks

    def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
        return self.local.embedding_bag_configs()

    def set_learning_rate(self, lr: float) -> None:
        self.local.set_learning_rate(lr)

    def set_time(self, now: int) -> None:
        self.local.set_time(now)

    def dense_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        return self.local.dense_parameters()

    def weights(self) -> dict[str, torch.Tensor]:
        """Of tables divided by id this rank's share; of others the whole, on every rank."""
        return self.local.weights() if self.sharded_by_id else self._whole(self.local.weights())

    def training_state(self) -> dict[str, torch.Tensor]:
        """Of tables divided by id this rank's share; of others the whole, on every rank."""
        return self.local.training_state() if self.sharded_by_id else self._whole(self.local.training_state())

    def restore(self, weights: Mapping[str, torch.Tensor], training_state: Mapping[str, torch.Tensor] | None) -> None:
        """Take this rank's share of what the whole tables gave."""
        if self.sharded_by_id:
            share = state_dict.shard({**weights, **(training_state or {})}, self._tables, self.rank, self.ranks)
            weights, rest = state_dict.split_optimizer_state(share, self._tables)
            self.local.restore(weights, None if training_state is None else rest)
        else:
            self.local.restore(weights, None if training_state is None else self._own_marks(training_state))

    def stats(self) -> dict[str, TableStats]:
        own = self.local.stats()
        if self.sharded_by_id:
            return own
        nothing = TableStats(**{field.name: 0 for field in fields(TableStats)})
        return {name: figures if self._owner[name] == self.rank else nothing for name, figures in own.items()}

    def begin_pass(self) -> None:
        self.local.begin_pass()

    def end_pass(self) -> None:
        self.local.end_pass()

    def rows_touched(self) -> int:
        return self.local.rows_touched()

    def _whole(self, share: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Every table's tensors from its owner; which rows were touched, of all tables in one, from all."""
        found = {}
        for name, tensor in share.items():
            table = self._table_of(name)
            whole = (tensor.byte() if tensor.dtype == torch.bool else tensor).clone()
            if table is None:
                dist.all_reduce(whole, group=self.group)
            else:
                dist.broadcast(whole, group_src=self._owner[table], group=self.group)
            found[name] = whole.to(tensor.dtype)
        return found

    def _own_marks(self, whole: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The same, but for marks on what others own."""
        found = dict(whole)
        own = torch.tensor([self._owner[table] == self.rank for table in self._tables])
        rows = torch.tensor([config.num_embeddings for config in self.local.embedding_bag_configs()])
        for name, tensor in whole.items():
            table = self._table_of(name)
            if name == "touched":
                found[name] = tensor & own.repeat_interleave(rows)
            elif table is not None and name == f"{table}.touched" and self._owner[table] != self.rank:
                found[name] = torch.zeros_like(tensor)
        return found

    def _table_of(self, name: str) -> str | None:
        """Which table a tensor is of; None of one of all tables."""
        return max((table for table in self._tables if name.startswith(f"{table}.")), key=len, default=None)


class _Exchange(torch.autograd.Function):
    """Bags of this rank's examples, float32 [B, F * D], of rows from wherever they are.

    Owners are told of every occurrence, for they count them; a row goes there and back once, however often it is asked for.
    """

    @staticmethod
    def forward(ctx: Any, anchor: torch.Tensor, bags: ShardedBags, features: KeyedJaggedTensor) -> torch.Tensor:  # type: ignore[override]
        f, d, keys, group, ids = len(bags._keys), bags._dim, bags._keys, bags.group, features.values().long()
        key = torch.repeat_interleave(torch.arange(f), torch.tensor(features.length_per_key()))
        places = bags.owners(ids, key) * f + key
        order, number, sent = route(ids.numpy(), places.numpy(), bags.ranks * f)
        # By rank, feature, and whether distinct ids or those that come again.
        sent = torch.from_numpy(sent).view(bags.ranks, f, 2)
        got = torch.empty_like(sent)
        dist.all_to_all_single(got, sent, group=group)
        asked = ids.new_empty(int(got.sum()))
        here, there = got.sum((1, 2)).tolist(), sent.sum((1, 2)).tolist()
        dist.all_to_all_single(asked, ids[torch.from_numpy(order)], here, there, group=group)
        by_key, of_mine = _by_feature(got.sum(2))
        stride = int(of_mine.max())
        lengths = (torch.arange(stride) < of_mine.unsqueeze(1)).reshape(-1).int()
        with torch.set_grad_enabled(bags.training):
            found = bags.local(KeyedJaggedTensor(keys, asked[by_key], lengths=lengths, stride=stride)).values().float()
        distinct = torch.tensor([True, False]).repeat(bags.ranks * f).repeat_interleave(got.view(-1))
        cells = torch.empty_like(by_key)
        cells[by_key] = _cells(of_mine)
        cells, here, there = cells[distinct], got[..., 0].sum(1).tolist(), sent[..., 0].sum(1).tolist()
        rows = torch.empty(sum(there), d)
        dist.all_to_all_single(rows, found.detach().view(-1, d)[cells], there, here, group=group)
        place = (number, features.offsets().long().numpy(), bags._means.numpy(), features.stride())
        out = torch.zeros(features.stride(), f * d)
        pool(rows.numpy(), *place, out.numpy())
        ctx.bags, ctx.found, ctx.cells, ctx.place, ctx.there, ctx.here = bags, found, cells, place, there, here
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[None, None, None]:  # type: ignore[override]
        summed = torch.zeros(sum(ctx.there), ctx.bags._dim)
        number, offsets, means, examples = ctx.place
        spread(grad.float().contiguous().numpy(), number, offsets, means, examples, summed.numpy())
        came = summed.new_empty(len(ctx.cells), ctx.bags._dim)
        dist.all_to_all_single(came, summed, ctx.here, ctx.there, group=ctx.bags.group)
        if ctx.found.requires_grad:
            of_all = torch.zeros_like(ctx.found)
            of_all.view(-1, ctx.bags._dim)[ctx.cells] = came
            torch.autograd.backward(ctx.found, of_all)
        return None, None, None


def _cells(of_feature: torch.Tensor) -> torch.Tensor:
    """Where the bags of one id each lie in a [B, F] of them: int64 [N], by feature. of_feature: int64 [F], how many one has."""
    f = len(of_feature)
    first = (of_feature.cumsum(0) - of_feature).repeat_interleave(of_feature)
    return (torch.arange(len(first)) - first) * f + torch.arange(f).repeat_interleave(of_feature)


def _by_feature(got: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What came by rank and feature, in order of features, and within one of ranks: as one process would have it.

    got: occurrences, int64 [R, F]. Gives where each was, int64 [N], and how many a feature has, int64 [F].
    """
    begins = (got.view(-1).cumsum(0) - got.view(-1)).view_as(got).T.reshape(-1)
    lengths = got.T.reshape(-1)
    shift = begins - (lengths.cumsum(0) - lengths)
    return torch.arange(int(lengths.sum())) + shift.repeat_interleave(lengths), got.sum(0)


def shard_tables(model: nn.Module, group: dist.ProcessGroup | None = None, by_id: bool = True) -> None:
    """Put a sharded collection in the place of every collection of tables of a model; by_id=False: of a fixed size alone."""
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
