"""The table against a plain dict and float64 optimizers, through random sequences of everything that can happen to it."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchrec.models.dlrm import DLRM, DLRMTrain
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ml.embeddings.collisionless.bags import CollisionlessEmbeddingBags
from ml.embeddings.collisionless.initial import draw
from ml.embeddings.collisionless.row_layout import COUNT, MOST, WEIGHTS
from ml.embeddings.collisionless.store import Occurrences, Store
from ml.embeddings.optimizers import Kind, RowOptimizer
from ml.embeddings.rules import TableRules
from tests.helpers.trials import examples

DIM, LR, SCALE = 4, 0.1, 0.2
KINDS: list[Kind] = ["sgd", "adagrad", "rowwise_adagrad", "adam", "ftrl"]
EDGES = [-1, 0, 1, 2**63 - 1, -(2**63), 2**24, 2**24 + 1, 5, 6]
SECOND = 1_000_000


@dataclass
class Row:
    weights: np.ndarray
    state: dict[str, np.ndarray]
    count: int = 0
    seen: int = 0


@dataclass
class Reference:
    """The same table, slowly: rows in a dict, numbers in float64."""

    optimizer: RowOptimizer
    rules: dict[str, TableRules]
    seeds: dict[str, int]
    rows: dict[tuple[str, int], Row] = field(default_factory=dict)
    candidates: dict[tuple[str, int], tuple[list[int], int]] = field(default_factory=dict)

    def train(self, batch: list[tuple[str, str, list[int], bool]], now: int) -> list[np.ndarray]:
        """batch: feature, table, ids of a bag, whether it is averaged. Gives the bags."""
        occurrences = [(table, i) for _, table, ids, _ in batch for i in ids]
        known, due = set(self.rows), []
        for key in occurrences:
            if key in known:
                self.rows[key].count += 1
                self.rows[key].seen = max(self.rows[key].seen, now // SECOND)
            elif self.is_due(key, now) and key not in due:
                due.append(key)
        for table, rule in self.rules.items():
            mine = sorted((key for key in due if key[0] == table), key=occurrences.index)
            if rule.max_rows is not None and rule.evict != "never":
                self.evict(table, len(mine), known & set(occurrences))
            for key in mine:
                if sum(t == table for t, _ in self.rows) < (rule.max_rows or 2**60):
                    counts, _ = self.candidates.pop(key, ([], 0))
                    self.rows[key] = self.new_row(key, sum(counts) or occurrences.count(key), now)
                elif rule.evict == "never" and rule.min_count == 1:
                    self.candidates.pop(key)  # such a table remembers nobody
        return [self.bag(table, ids, mean) for _, table, ids, mean in batch]

    def is_due(self, key: tuple[str, int], now: int) -> bool:
        """Whether an id without a row has now been seen often enough. counts: of the earlier and of this half window."""
        rule = self.rules[key[0]]
        counts, seen = self.candidates.get(key, ([0, 0], now))
        if rule.window_seconds is not None:
            halves = now // int(rule.window_seconds * SECOND / 2) - seen // int(rule.window_seconds * SECOND / 2)
            counts = counts if halves <= 0 else [counts[1], 0] if halves == 1 else [0, 0]
        counts = [counts[0], counts[1] + 1]
        self.candidates[key] = (counts, max(seen, now))
        return sum(counts) >= rule.min_count

    def evict(self, table: str, more: int, kept: set) -> None:
        rule = self.rules[table]
        mine = [key for key in self.rows if key[0] == table]
        too_many = len(mine) + more - (rule.max_rows or 0)
        if too_many <= 0:
            return

        def worth(key: tuple[str, int]) -> tuple[int, int, int]:
            seen, count = self.rows[key].seen, self.rows[key].count
            return (seen, count, key[1]) if rule.evict == "least_recently_used" else (count, seen, key[1])

        for key in sorted((key for key in mine if key not in kept), key=worth)[: max(too_many, (rule.max_rows or 0) // 16)]:
            del self.rows[key]

    def new_row(self, key: tuple[str, int], count: int, now: int) -> Row:
        record = np.zeros((1, WEIGHTS + DIM), np.float32)
        draw(record, 0, DIM, self.seeds[key[0]], key[1], np.float32(SCALE))
        w, start = record[0, WEIGHTS:].astype(np.float64), self.optimizer.initial_accumulator
        state = {"s": np.full(DIM, start), "r": np.array(start), "m": np.zeros(DIM), "v": np.zeros(DIM), "t": np.array(0)}
        o = self.optimizer
        state["n"] = np.full(DIM, start)
        state["z"] = -w * ((o.beta + np.sqrt(start)) / LR + o.l2 / LR) - np.sign(w) * o.l1 / LR
        return Row(w, state, count, now // SECOND)

    def bag(self, table: str, ids: list[int], mean: bool) -> np.ndarray:
        found = [self.rows[table, i].weights if (table, i) in self.rows else np.zeros(DIM) for i in ids]
        total = np.sum(found, axis=0) if found else np.zeros(DIM)
        return total / len(ids) if mean and ids else total

    def update(self, batch: list[tuple[str, str, list[int], bool]], grads: list[np.ndarray]) -> None:
        summed: dict[tuple[str, int], np.ndarray] = {}
        for (_, table, ids, mean), grad in zip(batch, grads, strict=True):
            for i in ids:
                if (table, i) in self.rows:
                    share = grad / len(ids) if mean else grad
                    summed[table, i] = summed.get((table, i), np.zeros(DIM)) + share
        for key, g in summed.items():
            self.step(self.rows[key], g)

    def step(self, row: Row, g: np.ndarray) -> None:
        o, s, w = self.optimizer, row.state, row.weights
        if o.kind == "sgd":
            w -= LR * g
        elif o.kind == "adagrad":
            s["s"] += g**2
            w -= LR * g / (np.sqrt(s["s"]) + o.eps)
        elif o.kind == "rowwise_adagrad":
            s["r"] = s["r"] + (g**2).mean()
            w -= LR * g / (np.sqrt(s["r"]) + o.eps)
        elif o.kind == "adam":
            s["t"] = s["t"] + 1
            s["m"] = o.beta1 * s["m"] + (1 - o.beta1) * g
            s["v"] = o.beta2 * s["v"] + (1 - o.beta2) * g**2
            m, v = s["m"] / (1 - o.beta1 ** s["t"]), s["v"] / (1 - o.beta2 ** s["t"])
            w -= LR * m / (np.sqrt(v) + o.eps)
        else:
            total = s["n"] + g**2
            s["z"] = s["z"] + g - (np.sqrt(total) - np.sqrt(s["n"])) / LR * w
            s["n"] = total
            shrunk = np.sign(s["z"]) * np.maximum(np.abs(s["z"]) - o.l1 / LR, 0)  # the paper's own l1 and l2
            row.weights = -shrunk / ((o.beta + np.sqrt(total)) / LR + o.l2 / LR)

    def expire(self, now: int) -> int:
        def gone(table: str, age: int) -> bool:
            ttl = self.rules[table].ttl_seconds
            return ttl is not None and age > ttl * SECOND

        age_of = {key: (now // SECOND - row.seen) * SECOND for key, row in self.rows.items()}
        left = {key: row for key, row in self.rows.items() if not gone(key[0], age_of[key])}
        expired = len(self.rows) - len(left)
        self.rows = left
        self.candidates = {
            key: (counts, seen) for key, (counts, seen) in self.candidates.items() if not gone(key[0], now - seen)
        }
        return expired


IDS = st.sampled_from(EDGES) | st.integers(-(2**63), 2**63 - 1)
BAGS = st.lists(st.lists(IDS, max_size=4), min_size=2, max_size=2)  # of two examples
STEP = st.tuples(st.sampled_from(["train", "train", "train", "expire", "look", "reload"]), BAGS, BAGS, BAGS, st.integers(0, 40))
RULES = st.builds(
    lambda min_count, window, ttl, cap, evict: TableRules(
        "t", min_count, "sliding" if window else "exact", window, ttl, cap, evict
    ),
    st.sampled_from([1, 2, 3]),
    st.sampled_from([None, None, 4.0]),
    st.sampled_from([None, 10.0]),
    st.sampled_from([None, 2, 5, 40]),
    st.sampled_from(["never", "least_recently_used", "least_frequently_used"]),
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.soak
@examples(400)
@given(st.lists(STEP, min_size=1, max_size=12), RULES, st.sampled_from([1, 2]))
def test_every_sequence_ends_as_with_a_dict(kind: Kind, steps: list, rule: TableRules, threads: int) -> None:
    tables = [
        EmbeddingBagConfig(name="t", embedding_dim=DIM, num_embeddings=1, feature_names=["f", "g"], pooling=PoolingType.MEAN),
        EmbeddingBagConfig(name="u", embedding_dim=DIM, num_embeddings=1, feature_names=["h"], pooling=PoolingType.SUM),
    ]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    table_of = {"f": ("t", True), "g": ("t", True), "h": ("u", False)}
    rules = {"t": rule, "u": TableRules("u")}
    optimizer = RowOptimizer(kind, eps=1e-3, initial_accumulator=0.1, l1=0.01, l2=0.01)

    def new_bags() -> CollisionlessEmbeddingBags:
        return CollisionlessEmbeddingBags(tables, lr=LR, init_scale=SCALE, optimizer=optimizer, rules=rules, seed=3)

    bags = new_bags()
    seeds: dict[str, int] = {"t": bags.store.seeds[0], "u": bags.store.seeds[1]}
    slow, now = Reference(optimizer, rules, seeds), 0
    rng = np.random.default_rng(0)
    for what, *of_feature, later in steps:
        now += later * SECOND // 4
        batch = [(name, *table_of[name], ids) for name, bag in zip("fgh", of_feature, strict=True) for ids in bag]
        batch = [(name, table, ids, mean) for name, table, mean, ids in batch]
        values = torch.tensor([i for _, _, ids, _ in batch for i in ids], dtype=torch.int64)
        features = KeyedJaggedTensor(list("fgh"), values, lengths=torch.tensor([len(ids) for _, _, ids, _ in batch]))
        if what == "expire":
            assert bags.store.expire(now) == slow.expire(now)
            continue
        if what == "reload":
            again = new_bags()
            again.restore(bags.weights(), bags.training_state())
            assert all(torch.equal(value, again.training_state()[name]) for name, value in bags.training_state().items())
            bags = again
            continue
        bags.train(what == "train")
        bags.set_time(now)
        pooled = bags(features)
        expected = slow.train(batch, now) if what == "train" else [slow.bag(t, ids, mean) for _, t, ids, mean in batch]
        found = [pooled[name][example].detach().numpy() for name in "fgh" for example in range(2)]
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-4)
        if what == "train":
            grads = rng.normal(size=(6, DIM)).astype(np.float32)
            full = np.concatenate([grads.reshape(3, 2, DIM)[f] for f in range(3)], axis=1)
            pooled.values().backward(torch.from_numpy(full))
            slow.update(batch, list(grads.astype(np.float64)))
        for number, table in enumerate("tu"):
            held = bags.store.table(number)
            mine = {i: row for (t, i), row in slow.rows.items() if t == table}
            assert held["id"].tolist() == sorted(mine)
            assert held["count"].tolist() == [mine[i].count for i in sorted(mine)]
            assert held["seen"].tolist() == [mine[i].seen for i in sorted(mine)]
        assert len(bags.store) == len(slow.rows) == len(bags.store.hash_map)
        assert bags.store.num_candidates().sum() == len(slow.candidates)
        assert rule.max_rows is None or bags.store.live[0] <= rule.max_rows
    torch.set_num_threads(before)


def train_ids(store: Store, ids: np.ndarray, now: int = 0) -> None:
    """A step on one id per example, of the first table."""
    batch = Occurrences(np.asarray(ids, np.int64), np.arange(len(ids) + 1))
    _, pending = store.look_up_for_training(batch, now)
    store.update(pending, np.ones((len(ids), store.dim), np.float32), LR)


def new_store(rule: TableRules | None = None, dim: int = 8, scale: float = 0.1, seed: int = 0) -> Store:
    return Store([rule or TableRules("t")], dim, RowOptimizer(), scale, seed)


def test_rows_never_share_and_grow_as_needed() -> None:
    store, rng = new_store(), np.random.default_rng(0)
    ids = np.unique(rng.integers(-(2**63), 2**63 - 1, 50_000))
    for part in np.array_split(rng.permutation(ids), 37):
        train_ids(store, part)
    rows = store.find(np.zeros(len(ids), np.int64), ids)
    assert len(np.unique(rows)) == len(ids) == len(store) and rows.min() == 1


def test_first_weights_follow_from_seed_table_and_id_alone() -> None:
    def weights(order: list[int], name: str = "t", seed: int = 0) -> np.ndarray:
        store = new_store(TableRules(name), scale=0.5, seed=seed)
        ids = np.array(order, np.int64)
        out, _ = store.look_up_for_training(Occurrences(ids, np.arange(len(ids) + 1)), 0)
        return out[np.argsort(order)]

    same = weights([5, -7, 2**40])
    np.testing.assert_array_equal(same, weights([2**40, 5, -7]))
    assert not np.array_equal(same, weights([5, -7, 2**40], name="u"))
    assert not np.array_equal(same, weights([5, -7, 2**40], seed=1))
    many = weights(list(range(20_000)))
    assert abs(many.mean()) < 0.005 and np.abs(many).max() <= 0.5 and abs(many.std() - 0.5 / np.sqrt(3)) < 0.005


def test_a_full_table_gives_no_more_rows() -> None:
    store = new_store(TableRules("t", max_rows=3, evict="never"))
    train_ids(store, np.arange(9))
    assert store.table(0)["id"].tolist() == [0, 1, 2] and len(store) == 3


def test_a_full_table_drops_what_was_least_recently_or_least_frequently_used() -> None:
    kept = {}
    for evict in ("least_recently_used", "least_frequently_used"):
        store = new_store(TableRules("t", max_rows=3, evict=evict))
        for second, ids in enumerate([[1, 1, 1], [2, 2], [3], [4]]):
            train_ids(store, np.array(ids), second * SECOND)
        kept[evict] = store.table(0)["id"].tolist()
        assert store.counters.evicted.tolist() == [1] and store.counters.admitted.tolist() == [4]
    assert kept == {"least_recently_used": [2, 3, 4], "least_frequently_used": [1, 2, 4]}


def test_the_probabilistic_filter_admits_after_so_many_on_average() -> None:
    store = new_store(TableRules("t", min_count=10, filter="probabilistic"))
    ids, seen_before = np.arange(20_000), np.zeros(20_000)
    for _ in range(60):
        seen_before += store.find(np.zeros(len(ids), np.int64), ids) == 0
        train_ids(store, ids)
    # Geometric with mean 10, cut at 60, where 0.2 % are left.
    assert abs(seen_before.mean() - 10) < 0.3 and len(store) > 19_900
    assert store.num_candidates().sum() == 0


def test_evaluation_changes_nothing() -> None:
    tables = [EmbeddingBagConfig(name="t", embedding_dim=4, num_embeddings=1, feature_names=["f"])]
    bags = CollisionlessEmbeddingBags(tables, lr=LR, init_scale=SCALE, rules={"t": TableRules("t", min_count=2)})
    train_ids(bags.store, np.array([1, 1, 2, 3]))
    before = {name: value.clone() for name, value in (bags.weights() | bags.training_state()).items()}
    bags.eval()
    bags.set_time(99 * SECOND)
    outs = [bags(KeyedJaggedTensor(["f"], torch.tensor([1, 2, 7]), lengths=torch.tensor([1, 1, 1]))).values() for _ in range(3)]
    out = outs[-1]
    assert out[0].abs().sum() > 0 and out[1:].abs().sum() == 0
    after = bags.weights() | bags.training_state()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_rows_that_went_before_their_update_came_are_an_error() -> None:
    store = new_store(TableRules("t", ttl_seconds=1.0))
    _, pending = store.look_up_for_training(Occurrences(np.array([1]), np.array([0, 1])), 0)
    store.expire(99 * SECOND)
    with pytest.raises(RuntimeError, match="expire between steps"):
        store.update(pending, np.ones((1, 8), np.float32), LR)


def test_a_row_that_an_earlier_batch_still_waits_for_makes_no_way() -> None:
    store = new_store(TableRules("t", max_rows=2))
    _, first = store.look_up_for_training(Occurrences(np.array([1, 2]), np.arange(3)), 0)
    _, second = store.look_up_for_training(Occurrences(np.array([3, 4]), np.arange(3)), SECOND)
    assert store.table(0)["id"].tolist() == [1, 2]
    for pending in (second, first):
        store.update(pending, np.ones((2, 8), np.float32), LR)
    train_ids(store, np.array([3, 4]), 2 * SECOND)
    assert store.table(0)["id"].tolist() == [3, 4]


def plain_bags(**choices: Any) -> CollisionlessEmbeddingBags:
    """One table, one feature, plain steps of the whole gradient from zero."""
    tables = [EmbeddingBagConfig(name="t", embedding_dim=1, num_embeddings=1, feature_names=["f"])]
    chosen = {"lr": 1.0, "init_scale": 0.0, "optimizer": RowOptimizer("sgd"), **choices}
    return CollisionlessEmbeddingBags(tables, **chosen)


def one_id(number: int) -> KeyedJaggedTensor:
    return KeyedJaggedTensor(["f"], torch.tensor([number]), lengths=torch.tensor([1]))


def test_a_second_backward_is_refused_and_harms_nothing() -> None:
    bags = plain_bags()
    loss = bags(one_id(1)).values().sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="has had its update"):
        loss.backward()
    first, second = bags(one_id(1)).values(), bags(one_id(2)).values()
    (10 * first.sum()).backward()
    (100 * second.sum()).backward()
    assert bags.weights()["t.weight"].squeeze(1).tolist() == [-11.0, -100.0]


@pytest.mark.parametrize(
    ("values", "lengths", "weights", "said"),
    [
        ([1, 2], [500], None, "do not belong to 2 ids"),
        ([1, 2], [1], None, "do not belong to 2 ids"),
        ([1, 2], [3, -1], None, "do not belong to 2 ids"),
        ([1, 2], [1, 1], [0.5], "2 ids have 1 weights"),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_a_batch_that_is_none_is_refused_before_memory_is_touched(
    values: list[int], lengths: list[int], weights: list[float] | None, said: str, training: bool
) -> None:
    bags = plain_bags(weighted=weights is not None).train(training)
    batch = KeyedJaggedTensor(
        ["f"], torch.tensor(values), torch.tensor(weights) if weights else None, lengths=torch.tensor(lengths)
    )
    with pytest.raises(ValueError, match=said):
        bags(batch)


def test_batches_of_another_size_for_each_feature_are_refused() -> None:
    tables = [EmbeddingBagConfig(name=f, embedding_dim=1, num_embeddings=1, feature_names=[f]) for f in "fg"]
    bags = CollisionlessEmbeddingBags(tables, lr=1.0, init_scale=0.0)
    features = KeyedJaggedTensor(
        ["f", "g"], torch.arange(5), lengths=torch.ones(5, dtype=torch.int64), stride_per_key_per_rank=[[2], [3]]
    )
    with pytest.raises(ValueError, match="another size for each feature"):
        bags(features)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda bags: pickle.loads(pickle.dumps(bags))])
def test_a_copy_is_a_table_of_its_own(copied: Callable[[Any], Any]) -> None:
    bags = plain_bags()
    train_ids(bags.store, np.arange(500))
    other = copied(bags)
    for first in (500, 900, 3000):  # with room, and past the growth of map and rows
        train_ids(other.store, np.arange(first, first + 400))
    assert other.weights()["t.id"].tolist() == [*range(1300), *range(3000, 3400)]
    assert len(other.store) == 1700 and len(bags.store) == 500


def test_a_state_dict_has_the_rows() -> None:
    bags, other = plain_bags(), plain_bags()
    train_ids(bags.store, np.arange(5))
    other.load_state_dict(bags.state_dict())
    assert torch.equal(other.weights()["t.weight"], bags.weights()["t.weight"]) and len(other.store) == 5


def test_names_that_do_not_tell_tables_apart_are_refused() -> None:
    twice = [EmbeddingBagConfig(name="t", embedding_dim=1, num_embeddings=1, feature_names=[f]) for f in "fg"]
    with pytest.raises(ValueError, match="tables of different names"):
        CollisionlessEmbeddingBags(twice, lr=1.0, init_scale=0.0)
    for rules in ({"typo": TableRules("typo")}, {"t": TableRules("x")}):
        with pytest.raises(ValueError, match="are not of the tables"):
            plain_bags(rules=rules)


def test_chance_looks_at_ids_and_not_at_their_order() -> None:
    ids, held = np.arange(300), []
    for order in (ids, ids[::-1]):
        store = new_store(TableRules("t", 3, "probabilistic"))
        train_ids(store, np.concatenate([order, order]))
        held.append(store.table(0)["id"].tolist())
    assert held[0] == held[1] and 100 < len(held[0]) < 230  # 1 - (2/3)^2 of 300 is 167


def test_chance_is_another_at_every_look_up_even_without_an_update() -> None:
    store = new_store(TableRules("t", 3, "probabilistic"))
    for _ in range(40):
        store.look_up_for_training(Occurrences(np.array([7, 8, 9]), np.arange(4)), 0)
    assert len(store) == 3


def test_rows_live_at_least_as_long_as_they_may() -> None:
    store = new_store(TableRules("t", ttl_seconds=1.0))
    train_ids(store, np.array([1]), 10_999_999)
    assert store.expire(11_200_000) == 0 and store.expire(12_100_000) == 1


@pytest.mark.parametrize("now", [-5, 2**62, 2**63])
def test_times_out_of_range_are_taken_for_the_nearest_in_it(now: int) -> None:
    store = new_store(TableRules("t", ttl_seconds=1.0))
    train_ids(store, np.array([1]), now)
    assert store.time == min(max(now, 0), (2**32 - 1) * SECOND) and store.expire(store.time) == 0


def test_more_than_a_sliding_filter_can_count_is_refused() -> None:
    with pytest.raises(ValueError, match="counts up to 524287"):
        TableRules("t", 2**19, "sliding", 4.0)


@pytest.mark.parametrize("l1", [0.0, 0.01])
def test_a_rate_that_changes_moves_no_row_of_ftrl_by_itself(l1: float) -> None:
    store = Store([TableRules("t")], 2, RowOptimizer("ftrl", l1=l1, l2=0.1), 0.5, 0)
    batch = Occurrences(np.array([1]), np.arange(2))
    seen = []
    for rate, gradient in ((0.0, 1.0), (1.0, 0.0), (0.1, 0.0)):
        out, pending = store.look_up_for_training(batch, 0)
        seen.append(out.copy())
        store.update(pending, np.full((1, 2), gradient, np.float32), rate)
    seen.append(store.look_up(batch))
    assert np.abs(seen[0]).min() > 0.01
    np.testing.assert_allclose(seen[2], seen[1], rtol=1e-5)
    np.testing.assert_allclose(seen[3], seen[1], rtol=1e-5)


def test_compiled_kernels_are_found_again_by_another_process(tmp_path: Path) -> None:
    code = """
import numpy as np
from ml.embeddings.optimizers import CODES, RowOptimizer
from ml.embeddings.collisionless.lookup import reader
from ml.embeddings.rules import TableRules
from ml.embeddings.collisionless.store import Occurrences, Store
from ml.embeddings.collisionless.update import trainer
store = Store([TableRules("t")], 4, RowOptimizer("adagrad"), 0.1, 0)
_, pending = store.look_up_for_training(Occurrences(np.array([1]), np.arange(2)), 0)
store.update(pending, np.ones((1, 4), np.float32), 0.1)
kernels = (reader(4, True), trainer(4, CODES["adagrad"]))
print([sum(kernel.stats.cache_hits.values()) for kernel in kernels])
"""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    said = [subprocess.check_output([sys.executable, "-c", code], env=environment, text=True) for _ in range(2)]
    assert [text.split("\n")[-2] for text in said] == ["[0, 0]", "[1, 1]"]


def test_a_batch_that_fills_the_table_alone_evicts_nothing_of_its_own() -> None:
    store = new_store(TableRules("t", max_rows=2))
    for _ in range(3):
        train_ids(store, np.array([1, 2, 3, 4]))
        assert len(store) == 2
    assert store.table(0)["id"].tolist() == [1, 2]


def test_counts_stop_where_they_can_not_go_on() -> None:
    store = new_store()
    train_ids(store, np.array([7]))
    store.array.words[store.rows_of(0), COUNT] = MOST - 1
    for _ in range(3):
        train_ids(store, np.array([7]))
    assert store.table(0)["count"].tolist() == [MOST]
    store.step = MOST
    with pytest.raises(OverflowError, match="all that steps can count"):
        train_ids(store, np.array([7]))


@pytest.mark.parametrize("threads", [1, 2])
def test_empty_batches_and_batches_of_empty_bags(threads: int) -> None:
    store = Store([TableRules("t"), TableRules("u")], 4, RowOptimizer(), 0.1, 0)
    for offsets in ([0], [0] * 7):
        batch = Occurrences(np.empty(0, np.int64), np.array(offsets))
        out, pending = store.look_up_for_training(batch, 0, threads)
        store.update(pending, np.ones_like(out), LR)
        assert out.shape == (len(offsets) // 2, 8) and not out.any() and not store.look_up(batch, threads).any()
    assert len(store) == 0


def test_bytes_are_what_the_columns_need() -> None:
    store, n = new_store(dim=16), 700_000
    store.insert(np.zeros(n, np.int64), np.arange(n))
    header, weights, per_slot = 32, 64, 16
    assert store.row_bytes == header + weights
    assert store.nbytes == (n + 1) * store.row_bytes + len(store.hash_map.slots) * per_slot + store.candidates.nbytes


def test_the_order_of_a_batch_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    ids, grad = rng.integers(0, 6, 64), rng.normal(size=(64, 4)).astype(np.float32)
    ends = []
    for order in (np.arange(64), rng.permutation(64)):
        tables = [EmbeddingBagConfig(name="t", embedding_dim=4, num_embeddings=1, feature_names=["f"])]
        bags = CollisionlessEmbeddingBags(tables, lr=0.1, init_scale=0.1)
        features = KeyedJaggedTensor(["f"], torch.from_numpy(ids[order]), lengths=torch.ones(64, dtype=torch.int64))
        bags(features).values().backward(torch.from_numpy(grad[order]))
        ends.append(bags.store.array.floats[bags.store.rows_of(0), WEIGHTS : WEIGHTS + 4])
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-5, atol=1e-6)


def test_torchrecs_dlrm_takes_it_and_learns() -> None:
    torch.manual_seed(0)
    tables = [EmbeddingBagConfig(name=f, embedding_dim=8, num_embeddings=1, feature_names=[f]) for f in ("a", "b")]
    bags = CollisionlessEmbeddingBags(tables, lr=0.5, init_scale=0.1)
    model = DLRMTrain(DLRM(bags, 3, [16, 8], [16, 1]))  # type: ignore[arg-type]
    dense_optimizer = torch.optim.Adam([p for p in model.parameters() if p.numel()], 0.01)
    ids = torch.randint(0, 20, (2 * 256,)) * 2**50
    labels = (ids[:256] // 2**50 % 2).float()
    features = KeyedJaggedTensor(["a", "b"], ids, lengths=torch.ones(512, dtype=torch.int64))
    losses = []
    for _ in range(60):

        class Batch:
            dense_features, sparse_features = torch.zeros(256, 3), features

        Batch.labels = labels  # type: ignore[attr-defined]
        loss, _ = model(Batch)
        dense_optimizer.zero_grad()
        loss.backward()
        dense_optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.1 < losses[0]


def test_what_it_is_given_wrongly_is_named() -> None:
    table = EmbeddingBagConfig(name="t", embedding_dim=4, num_embeddings=1, feature_names=["f"])
    wide = EmbeddingBagConfig(name="u", embedding_dim=8, num_embeddings=1, feature_names=["g"])
    with pytest.raises(ValueError, match=r"one dimension, found \[4, 8\]"):
        CollisionlessEmbeddingBags([table, wide], lr=0.1, init_scale=0.1)
    bags = CollisionlessEmbeddingBags([table], lr=0.1, init_scale=0.1)
    with pytest.raises(KeyError, match=r"\['f'\] are not in the batch, which has \['x'\]"):
        bags(KeyedJaggedTensor(["x"], torch.tensor([1]), lengths=torch.tensor([1])))
