"""Collisionless tables in plain torch, with which the fast tables are compared. They are slow and run on any device.

A table consists of columns sorted by id, and operations work on whole columns. Rules, initial weights, optimizers and state are
the same as in `ml.embeddings.collisionless`, so each implementation can restore the state of the other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from ml.embeddings.collisionless import state_dict
from ml.embeddings.collisionless.bags import checked_rules, share_of_cap
from ml.embeddings.collisionless.hash_map import ROW_BITS, ROW_MASK
from ml.embeddings.collisionless.row_layout import LATEST
from ml.embeddings.delta import Delta, Gap, TableDelta, TableShape
from ml.embeddings.interface import TableStats, TrainableBags, in_order
from ml.embeddings.optimizers import RowOptimizer
from ml.embeddings.receivers import Receivers
from ml.embeddings.rules import TableRules, seed_of
from ml.hashing import GOLDEN
from tests.helpers.reference_math import LOWEST, find, first_state, mix, optimizer_step, repetitions, signed

MICROSECONDS = 1_000_000
EVICT_AHEAD = 16
_HALF_BITS = 19
_HALF = (1 << _HALF_BITS) - 1
_FIXED = ("id", "weight", "seen", "count", "step", "slot", "state")
_COUNTERS = ("looked_up", "unknown", "admitted", "expired", "evicted")


@dataclass
class _Table:
    """Rows by column, sorted by id; candidates, int64 [W, 3]: id, count (two halves if it slides), time last seen."""

    rules: TableRules
    seed: int
    rows: dict[str, torch.Tensor]
    candidates: torch.Tensor
    counters: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_COUNTERS, 0))

    def __len__(self) -> int:
        return len(self.rows["id"])

    def keep(self, which: torch.Tensor) -> None:
        """Keep rows by mask or index."""
        self.rows = {name: column[which] for name, column in self.rows.items()}

    def add(self, more: dict[str, torch.Tensor]) -> None:
        self.rows = {name: torch.cat([column, more[name]]) for name, column in self.rows.items()}
        self.keep(self.rows["id"].argsort())


class ReferenceEmbeddingBags(TrainableBags):
    """A slow implementation of `CollisionlessEmbeddingBags`."""

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
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(lr)
        self._configs, self._weighted, self.lr, self.now = list(tables), weighted, lr, 0
        self.optimizer, self.init_scale, self.device = optimizer or RowOptimizer(), init_scale, torch.device(device)
        self._dim = tables[0].embedding_dim
        self._keys = [feature for table in tables for feature in table.feature_names]
        self._table_of = [number for number, table in enumerate(tables) for _ in table.feature_names]
        self._updates, self.time, self.oldest_delta_step = 0, 0, 0
        named = checked_rules(tables, rules or {})
        self.tables = [self._empty(named[table.name], seed) for table in tables]
        self._began_at, self._counted_before = 0, [dict(table.counters) for table in self.tables]
        self.tombstones = torch.empty((0, 3), dtype=torch.int64, device=self.device)
        self._anchor = nn.Parameter(torch.empty(0, device=self.device))

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        features = in_order(features, self._keys)
        pooled = _Pool.apply(self._anchor, self, features)
        return KeyedTensor(self._keys, [self._dim] * len(self._keys), pooled)

    def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
        return self._configs

    def is_weighted(self) -> bool:
        return self._weighted

    def set_learning_rate(self, lr: float) -> None:
        self.lr = lr

    def set_time(self, now: int) -> None:
        self.now = min(max(now, 0), LATEST * MICROSECONDS)

    def set_rank_cap(self, rank: int, ranks: int) -> None:
        for table in self.tables:
            table.rules = replace(table.rules, max_rows=share_of_cap(table.rules.max_rows, rank, ranks))

    @property
    def step(self) -> int:
        return self._updates

    def advance_to(self, step: int) -> None:
        self._updates = max(self._updates, step)

    def delta_shapes(self) -> dict[str, TableShape]:
        return {table.rules.name: TableShape(self._dim, None) for table in self.tables}

    def delta(self, since: int) -> Delta:
        if not self.oldest_delta_step <= since <= self.step:
            raise Gap(f"{since} is not among steps {self.oldest_delta_step} to {self.step}")
        tables = {}
        for number, table in enumerate(self.tables):
            changed = table.rows["step"] > since
            deleted = self.tombstones[(self.tombstones[:, 0] > since) & (self.tombstones[:, 1] == number), 2].unique()
            keys, weights, seen = (table.rows[name][changed] for name in ("id", "weight", "seen"))
            tables[table.rules.name] = TableDelta(keys, weights, seen, deleted)
        return Delta(since, self.step, self.time, tables)

    def _write_delta(self, delta: Delta) -> None:
        for number, table in enumerate(self.tables):
            own = delta.tables[table.rules.name]
            table.keep(~torch.isin(table.rows["id"], own.deleted))
            row, there = find(table.rows["id"], own.keys)
            rows = self._new_rows(table, own.keys, 0)
            rows["weight"], rows["seen"], rows["state"] = (
                own.weights.clone(),
                own.seen.clone(),
                first_state(self.optimizer, own.weights),
            )
            for name in ("count", "slot", "state"):
                rows[name][there] = table.rows[name][row[there]]
            rows["step"] = torch.full_like(rows["step"], delta.step)
            table.keep(~torch.isin(table.rows["id"], own.keys))
            table.add(rows)
            tombs = [torch.full_like(own.deleted, delta.step), torch.full_like(own.deleted, number), own.deleted]
            self.tombstones = torch.cat([self.tombstones, torch.stack(tombs, 1)])
        self._updates, self.time = delta.step, max(self.time, delta.time)

    def begin_pass(self) -> None:
        self.tombstones, self.oldest_delta_step = self.tombstones[:0], self.step
        self._began_at, self._counted_before = self.step, [dict(table.counters) for table in self.tables]

    def end_pass(self) -> None:
        self.expire(self.time)

    def rows_touched(self) -> int:
        return sum(int((table.rows["step"] > self._began_at).sum()) for table in self.tables)

    def stats(self) -> dict[str, TableStats]:
        found = {}
        for table, before in zip(self.tables, self._counted_before, strict=True):
            since = {name: table.counters[name] - before[name] for name in _COUNTERS}
            nbytes = sum(column.nbytes for column in table.rows.values())
            found[table.rules.name] = TableStats(len(table), nbytes, len(table.candidates), **since)
        return found

    def weights(self) -> dict[str, torch.Tensor]:
        found = {f"{t.rules.name}.{name}": t.rows[name].clone() for t in self.tables for name in ("id", "weight")}
        return found | {"step": torch.tensor([self.step, self.time])}

    def training_state(self) -> dict[str, torch.Tensor]:
        found = {f"{t.rules.name}.{name}": t.rows[name].clone() for t in self.tables for name in _FIXED[2:]}
        candidates = [t.candidates + torch.tensor([0, n << ROW_BITS, 0], device=self.device) for n, t in enumerate(self.tables)]
        gone = self.tombstones
        for column in (2, 1, 0):
            gone = gone[gone[:, column].argsort(stable=True)]
        began = [[self._began_at] * len(self.tables)]
        began += [[before[name] for before in self._counted_before] for name in _COUNTERS]
        about = json.dumps(state_dict.about(self.optimizer, [table.rules for table in self.tables])).encode()
        return found | {
            "about": torch.tensor(list(about), dtype=torch.uint8),
            "pass": torch.tensor(began),
            "candidates": torch.cat(candidates),
            "tombstones": gone,
            "oldest_delta_step": torch.tensor([self.oldest_delta_step]),
            "receivers": Receivers(lambda: 0.0).to_tensor(),
            "counters": torch.tensor([[table.counters[name] for table in self.tables] for name in _COUNTERS]),
        }

    def restore(self, weights: Mapping[str, torch.Tensor], training_state: Mapping[str, torch.Tensor] | None) -> None:
        state = training_state
        same = state_dict.read_about(state, self.optimizer, [t.rules for t in self.tables]) if state is not None else []
        self._updates, self.time = weights["step"].tolist()
        for number, table in enumerate(self.tables):
            name = table.rules.name
            rows = self._new_rows(table, weights[f"{name}.id"].to(self.device), 0)
            rows["weight"] = weights[f"{name}.weight"].to(self.device)
            if state is not None:
                rows |= {column: state[f"{name}.{column}"].to(self.device) for column in _FIXED[2:]}
                mine = state["candidates"][state["candidates"][:, 1] >> ROW_BITS == number].to(self.device)
                mine = mine if number in same else mine[:0]
                table.candidates = torch.stack([mine[:, 0], mine[:, 1] & ROW_MASK, mine[:, 2]], 1)
                table.counters = dict(zip(_COUNTERS, state["counters"][:, number].tolist(), strict=True))
            table.rows = rows
        if training_state is not None:
            self.tombstones, self.oldest_delta_step = (
                training_state["tombstones"].to(self.device),
                int(training_state["oldest_delta_step"][0]),
            )
            self._began_at = int(training_state["pass"][0, 0])
            counted = training_state["pass"][1:].T.tolist()
            self._counted_before = [dict(zip(_COUNTERS, row, strict=True)) for row in counted]

    def expire(self, now: int) -> int:
        """The same as `Store.expire`."""
        keep = []
        for table in self.tables:
            ttl = round((table.rules.ttl_seconds or 0) * MICROSECONDS)
            since = now - ttl if ttl else -(1 << 62)
            age = (now // MICROSECONDS - table.rows["seen"]) * MICROSECONDS
            keep.append(age <= ttl if ttl else torch.ones_like(age, dtype=torch.bool))
            table.candidates = table.candidates[table.candidates[:, 2] >= since]
        expired = [int((~kept).sum()) for kept in keep]
        if sum(expired):
            self._delete_rows([table.rows["id"][~kept] for table, kept in zip(self.tables, keep, strict=True)])
        for table, kept, count in zip(self.tables, keep, expired, strict=True):
            table.keep(kept)
            table.counters["expired"] += count
        return sum(expired)

    def look_up(self, features: KeyedJaggedTensor, training: bool) -> torch.Tensor:
        """Pooled rows, float32 [B, F * D]."""
        ids = features.values()
        of_feature = torch.repeat_interleave(torch.tensor(features.length_per_key(), device=self.device))
        of_table = torch.tensor(self._table_of, device=self.device)[of_feature]
        if training:
            self.time = max(self.time, self.now)
            self._see(ids, of_table)
        embedded = torch.zeros(len(ids), self._dim, device=self.device)
        for number, table in enumerate(self.tables):
            mine = of_table == number
            row, there = find(table.rows["id"], ids[mine])
            found = torch.zeros(int(mine.sum()), self._dim, device=self.device)
            found[there] = table.rows["weight"][row[there]]
            embedded[mine] = found
        bag, share = self._bags(features)
        lengths = features.lengths()
        out = torch.zeros(len(lengths), self._dim, device=self.device).index_add(0, bag, embedded * share.unsqueeze(1))
        return out.view(len(self._keys), -1, self._dim).permute(1, 0, 2).reshape(-1, len(self._keys) * self._dim)

    def update(self, features: KeyedJaggedTensor, grad: torch.Tensor) -> None:
        """One step on every row that was looked up. grad: float32 [B, F * D]."""
        self._updates += 1
        bag, share = self._bags(features)
        of_bag = grad.view(-1, len(self._keys), self._dim).permute(1, 0, 2).reshape(-1, self._dim)
        of_occurrence = of_bag[bag] * share.unsqueeze(1)
        examples = len(features.lengths()) // len(self._keys)
        of_table = torch.tensor(self._table_of, device=self.device)[bag // max(examples, 1)]
        for number, table in enumerate(self.tables):
            mine = of_table == number
            row, there = find(table.rows["id"], features.values()[mine])
            touched, place = row[there].unique(return_inverse=True)
            summed = torch.zeros(len(touched), self._dim, device=self.device).index_add(0, place, of_occurrence[mine][there])
            optimizer_step(self.optimizer, self.lr, table.rows, touched, summed)
            table.rows["step"][touched] = self.step

    def _bags(self, features: KeyedJaggedTensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The bag of each occurrence, int64 [N], and its weight there, float32 [N]."""
        lengths = features.lengths().long()
        bag = torch.repeat_interleave(torch.arange(len(lengths), device=self.device), lengths)
        share = features.weights().detach() if self._weighted else torch.ones(len(bag), device=self.device)
        means = torch.tensor([self._configs[t].pooling == PoolingType.MEAN for t in self._table_of], device=self.device)
        examples = len(lengths) // len(self._keys)
        return bag, torch.where(means[bag // max(examples, 1)], share / lengths[bag], share)

    def _see(self, ids: torch.Tensor, of_table: torch.Tensor) -> None:
        """Count the occurrences of a batch, evict, and admit the ids that are due: each step for all tables."""
        seconds, found = self.now // MICROSECONDS, []
        for number, table in enumerate(self.tables):
            where = (of_table == number).nonzero().squeeze(1)
            row, there = find(table.rows["id"], ids[where])
            known, missing = row[there], ids[where][~there]
            table.rows["count"].index_add_(0, known, torch.ones_like(known, dtype=torch.int32))
            table.rows["seen"][known] = table.rows["seen"][known].clamp(min=seconds)
            table.counters["looked_up"] += len(where)
            table.counters["unknown"] += len(missing)
            new, inverse, occurred = missing.unique(return_inverse=True, return_counts=True)
            due, counts = self._due(table, missing, new, inverse, occurred)
            first = torch.full((len(new),), len(missing), device=self.device)
            first = first.scatter_reduce(0, inverse, torch.arange(len(missing), device=self.device), "amin")
            order = due.nonzero().squeeze(1)[first[due].argsort()]
            found.append((new[order], counts[order], known.unique()))
        for number, (table, (due, _, known)) in enumerate(zip(self.tables, found, strict=True)):
            if table.rules.max_rows is not None and table.rules.evict != "never":
                self._evict(number, table, len(due), known)
        for table, (due, counts, _) in zip(self.tables, found, strict=True):
            room = len(due) if table.rules.max_rows is None else max(0, table.rules.max_rows - len(table))
            rows = self._new_rows(table, due[:room], seconds)
            rows["count"] = counts[:room].to(torch.int32)
            table.add(rows)
            table.counters["admitted"] += len(due[:room])
            table.candidates = table.candidates[~torch.isin(table.candidates[:, 0], due[:room])]

    def _due(
        self, table: _Table, missing: torch.Tensor, new: torch.Tensor, inverse: torch.Tensor, occurred: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Which of the distinct ids `new` are due, bool [U], and how often each has been seen, int64 [U]."""
        rules = table.rules
        evicts = rules.max_rows is not None and rules.evict != "never"
        if rules.min_count == 1 and not evicts:
            return torch.ones_like(new, dtype=torch.bool), occurred
        if rules.filter == "probabilistic":
            clock = table.counters["looked_up"] + self.step
            chance = mix(mix(missing ^ table.seed) + signed(clock * GOLDEN) + repetitions(inverse))
            bound = signed((2**64 - 1) // rules.min_count)
            lucky = (chance ^ LOWEST) <= (bound ^ LOWEST)  # as unsigned numbers
            return torch.zeros_like(new, dtype=torch.bool).index_put((inverse[lucky],), torch.tensor(True)), occurred
        place, waits = find(table.candidates[:, 0], new)
        packed, seen = torch.zeros_like(new), torch.full_like(new, self.now)
        packed[waits], seen[waits] = table.candidates[place[waits], 1], table.candidates[place[waits], 2]
        if rules.filter == "sliding":
            half = max(1, round((rules.window_seconds or 0) * MICROSECONDS / 2))
            halves = self.now // half - seen // half
            earlier, current = packed >> _HALF_BITS, packed & _HALF
            earlier = torch.where(halves == 1, current, torch.where(halves > 1, 0, earlier))
            current = torch.where(halves >= 1, 0, current) + occurred
            packed, counts = earlier << _HALF_BITS | current, earlier + current
        else:
            packed = counts = packed + occurred
        others = table.candidates[~torch.isin(table.candidates[:, 0], new)]
        fresh = torch.stack([new, packed, seen.clamp(min=self.now)], 1)
        both = torch.cat([others, fresh])
        table.candidates = both[both[:, 0].argsort()]
        return counts >= rules.min_count, counts

    def _evict(self, number: int, table: _Table, due: int, listed: torch.Tensor) -> None:
        cap = table.rules.max_rows or 0
        too_many = len(table) + due - cap
        if too_many <= 0:
            return
        evictable = torch.ones(len(table), dtype=torch.bool, device=self.device)
        evictable[listed] = False
        rows = evictable.nonzero().squeeze(1)
        keys = ("count", "seen") if table.rules.evict == "least_recently_used" else ("seen", "count")
        for key in keys:  # rows are in the order of ids already, and sorting is stable
            rows = rows[table.rows[key][rows].argsort(stable=True)]
        gone = rows[: max(too_many, cap // EVICT_AHEAD)]
        if len(gone):
            ids = table.rows["id"][gone]
            self._delete_rows([ids if n == number else ids[:0] for n in range(len(self.tables))])
            table.counters["evicted"] += len(gone)
            table.keep(~torch.isin(torch.arange(len(table), device=self.device), gone))

    def _delete_rows(self, ids: list[torch.Tensor]) -> None:
        self._updates += 1
        parts = [torch.stack([torch.full_like(i, self.step), torch.full_like(i, n), i], 1) for n, i in enumerate(ids)]
        self.tombstones = torch.cat([self.tombstones, *parts])

    def _empty(self, rules: TableRules, seed: int) -> _Table:
        candidates = torch.empty((0, 3), dtype=torch.int64, device=self.device)
        table = _Table(rules, signed(seed_of(seed, rules.name)), {}, candidates)
        table.rows = self._new_rows(table, candidates[:, 0], 0)
        return table

    def _new_rows(self, table: _Table, ids: torch.Tensor, seconds: int) -> dict[str, torch.Tensor]:
        """Rows of ids that have not been counted yet."""
        n, o = len(ids), self.optimizer
        steps = (torch.arange(self._dim, device=self.device) + 1) * signed(GOLDEN)
        drawn = mix(mix(mix(ids + signed(GOLDEN)) ^ table.seed).unsqueeze(1) + steps)
        share = (drawn >> 40 & ((1 << 24) - 1)).float() * 2.0**-24
        weight = self.init_scale * (2 * share - 1)
        whole = {"dtype": torch.int32, "device": self.device}
        return {
            "id": ids,
            "weight": weight,
            "seen": torch.full((n,), seconds, dtype=torch.int64, device=self.device),
            "count": torch.zeros(n, **whole),
            "step": torch.full((n,), self.step + 1, **whole),
            "slot": torch.full((n,), o.initial_accumulator if o.kind == "rowwise_adagrad" else 0.0, device=self.device),
            "state": first_state(o, weight),
        }


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(ctx, anchor, bags, features):  # type: ignore[no-untyped-def, override]
        ctx.bags, ctx.features = bags, features
        return bags.look_up(features, bags.training)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def, override]
        if ctx.bags.training:
            ctx.bags.update(ctx.features, grad)
        return None, None, None
