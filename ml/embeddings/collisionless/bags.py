"""Collisionless tables behind TorchRec's `EmbeddingBagCollection` face: any 64-bit id has a row of its own, once admitted.

Rows are updated in the backward pass, each once by the sum of its gradients. What a row is and when it comes and goes is
`store`, how it is written down `columns`.
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
from ml.embeddings.collisionless.counters import Counters
from ml.embeddings.collisionless.deltas import shapes_of
from ml.embeddings.collisionless.row_layout import STEP
from ml.embeddings.collisionless.store import Occurrences, Store
from ml.embeddings.delta import Delta, TableShape
from ml.embeddings.interface import TableStats, TrainableBags, in_order
from ml.embeddings.optimizers import RowOptimizer
from ml.embeddings.rules import TableRules


class CollisionlessEmbeddingBags(TrainableBags):
    """Tables of one dimension D, for F features; several features may share one. `num_embeddings` of a config is not a bound.

    Time is told by `set_time` before a batch: event time, in microseconds. Evaluation admits, counts and touches nothing. As
    many threads work as torch is set to. Weights per sample are not learned: no gradient goes to them.

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
        )
        self._pass_began_at, self._counted_before = 0, Counters.zeros(len(self._configs))
        # Autograd calls a backward only for what depends on something that wants a gradient.
        self._anchor = nn.Parameter(torch.empty(0))

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        """Pooled rows: KeyedTensor with values float32 [B, F * D], keys in the order of the tables; empty bags are zeros.

        The features' keys may come in any order. Raises `KeyError` where one is missing.
        """
        features = in_order(features, self._keys)
        if features.variable_stride_per_key():
            raise ValueError("batches of another size for each feature are not for these tables")
        offsets = features.offsets().numpy().astype(np.int64, copy=False)
        batch = Occurrences(features.values().long().numpy(), offsets)
        if self._weighted:
            batch = batch._replace(weights=features.weights().detach().float().numpy())
        pooled = _Pool.apply(self._anchor, self, batch) if self.training else self._look_up(batch)
        return KeyedTensor(self._keys, [self._dim] * len(self._keys), pooled)

    def _look_up(self, batch: Occurrences) -> torch.Tensor:
        return torch.from_numpy(self.store.look_up(batch, torch.get_num_threads()))

    def get_extra_state(self) -> dict[str, dict[str, torch.Tensor]]:
        """Rows are no parameters: a `state_dict` has them all the same."""
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
        """By table, in the order of ids: `<table>.id` int64 [N], `<table>.weight` float32 [N, D]; `step` int64 [2]."""
        return state_dict.weights(self.store)

    def training_state(self) -> dict[str, torch.Tensor]:
        """By table: seen, count, step and optimizer state of each row; what waits; what was let go; counters. `pass`: int64
        [6, T], the step and the counters at its beginning."""
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
        return self.store.delta(since)

    def _write_delta(self, delta: Delta) -> None:
        self.store.apply(delta)

    def begin_pass(self) -> None:
        """Deltas reach back to here: what was let go before is forgotten, or the list of it would grow for ever."""
        self.store.trim_tombstones(self.store.step)
        self._pass_began_at, self._counted_before = self.store.step, self.store.counters.copy()

    def end_pass(self) -> None:
        """Let go of what has not been seen for its table's time to live."""
        self.store.expire(self.store.time)

    def rows_touched(self) -> int:
        return int((self.store.array.words[1 : self.store.used, STEP] > self._pass_began_at).sum())

    def stats(self) -> dict[str, TableStats]:
        store = self.store
        candidates, counters = store.num_candidates(), store.counters.since(self._counted_before)
        nbytes = store.nbytes_by_table(candidates)
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
    """One at least: a table capped at fewer rows than there are ranks may have one on each."""
    return None if max_rows is None else max(1, max_rows // ranks + (rank < max_rows % ranks))


def checked_rules(tables: Sequence[EmbeddingBagConfig], rules: Mapping[str, TableRules]) -> dict[str, TableRules]:
    """Rules of every table, by its name. Raises `ValueError` where names do not tell tables apart, or rules are of none."""
    names = [table.name for table in tables]
    if len(set(names)) != len(names):
        raise ValueError(f"expected tables of different names, found {names}")
    if wrong := [name for name, rule in rules.items() if name not in names or rule.name != name]:
        raise ValueError(f"rules {wrong} are not of the tables {names}, each under its own name")
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
