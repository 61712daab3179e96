"""The table against a plain dict and float64 optimizers, through random sequences of everything that can happen to it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchrec.models.dlrm import DLRM, DLRMTrain
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ml.embeddings.collisionless import CollisionlessEmbeddingBags
from ml.embeddings.initial import draw
from ml.embeddings.optimizers import Kind, RowOptimizer
from ml.embeddings.records import WEIGHTS
from ml.embeddings.store import TableRules

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
    waiting: dict[tuple[str, int], tuple[int, int]] = field(default_factory=dict)

    def train(self, batch: list[tuple[str, str, list[int], bool]], now: int) -> list[np.ndarray]:
        """batch: feature, table, ids of a bag, whether it is averaged. Gives the bags."""
        for _, table, ids, _ in batch:
            for i in ids:
                key = (table, i)
                if key in self.rows:
                    self.rows[key].count += 1
                    self.rows[key].seen = max(self.rows[key].seen, now)
                else:
                    count, seen = self.waiting.get(key, (0, now))
                    self.waiting[key] = (count + 1, max(seen, now))
        for key, (count, _) in sorted(self.waiting.items()):
            full = sum(table == key[0] for table, _ in self.rows) >= (self.rules[key[0]].max_rows or 2**60)
            if count >= self.rules[key[0]].admit_after and not full:
                self.rows[key] = self.new_row(key, count, now)
                del self.waiting[key]
        return [self.bag(table, ids, mean) for _, table, ids, mean in batch]

    def new_row(self, key: tuple[str, int], count: int, now: int) -> Row:
        record = np.zeros((1, WEIGHTS + DIM), np.float32)
        draw(record, 0, DIM, self.seeds[key[0]], key[1], np.float32(SCALE))
        w, start = record[0, WEIGHTS:].astype(np.float64), self.optimizer.initial_accumulator
        state = {"s": np.full(DIM, start), "r": np.array(start), "m": np.zeros(DIM), "v": np.zeros(DIM), "t": np.array(0)}
        o = self.optimizer
        state["n"] = np.full(DIM, start)
        state["z"] = -w * ((o.beta + np.sqrt(start)) / LR + o.l2) - np.sign(w) * o.l1
        return Row(w, state, count, now)

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
            shrunk = np.sign(s["z"]) * np.maximum(np.abs(s["z"]) - o.l1, 0)
            row.weights = -shrunk / ((o.beta + np.sqrt(total)) / LR + o.l2)

    def expire(self, now: int) -> int:
        def gone(table: str, seen: int) -> bool:
            ttl = self.rules[table].ttl_seconds
            return ttl is not None and seen < now - ttl * SECOND

        left = {key: row for key, row in self.rows.items() if not gone(key[0], row.seen)}
        expired = len(self.rows) - len(left)
        self.rows = left
        self.waiting = {key: (count, seen) for key, (count, seen) in self.waiting.items() if not gone(key[0], seen)}
        return expired


IDS = st.sampled_from(EDGES) | st.integers(-(2**63), 2**63 - 1)
BAGS = st.lists(st.lists(IDS, max_size=4), min_size=2, max_size=2)  # of two examples
STEP = st.tuples(st.sampled_from(["train", "train", "train", "expire", "look"]), BAGS, BAGS, BAGS, st.integers(0, 40))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=120, deadline=None)
@given(st.lists(STEP, min_size=1, max_size=12), st.sampled_from([1, 2, 3]), st.sampled_from([None, 10.0]))
def test_every_sequence_ends_as_with_a_dict(kind: Kind, steps: list, admit_after: int, ttl: float | None) -> None:
    tables = [
        EmbeddingBagConfig(name="t", embedding_dim=DIM, num_embeddings=1, feature_names=["f", "g"], pooling=PoolingType.MEAN),
        EmbeddingBagConfig(name="u", embedding_dim=DIM, num_embeddings=1, feature_names=["h"], pooling=PoolingType.SUM),
    ]
    table_of = {"f": ("t", True), "g": ("t", True), "h": ("u", False)}
    rules = {"t": TableRules("t", admit_after=admit_after, ttl_seconds=ttl), "u": TableRules("u")}
    optimizer = RowOptimizer(kind, eps=1e-3, initial_accumulator=0.1, l1=0.01, l2=0.01)
    bags = CollisionlessEmbeddingBags(tables, lr=LR, init_scale=SCALE, optimizer=optimizer, rules=rules, seed=3)
    seeds = dict(zip(("t", "u"), bags.store._seeds, strict=True))
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
        assert len(bags.store) == len(slow.rows) == len(bags.store.ids)
        assert bags.store.waiting_ids == len(slow.waiting)


def test_rows_never_share_and_grow_as_needed() -> None:
    tables = [EmbeddingBagConfig(name="t", embedding_dim=8, num_embeddings=1, feature_names=["f"])]
    bags = CollisionlessEmbeddingBags(tables, lr=0.1, init_scale=0.1)
    rng = np.random.default_rng(0)
    ids = np.unique(rng.integers(-(2**63), 2**63 - 1, 50_000))
    for part in np.array_split(rng.permutation(ids), 37):
        bags.store.find_for_training(np.zeros(len(part), np.int64), part, 0, 0.1)
    rows = bags.store.find(np.zeros(len(ids), np.int64), ids)
    assert len(np.unique(rows)) == len(ids) == len(bags.store) and rows.min() == 1


def test_first_weights_follow_from_seed_table_and_id_alone() -> None:
    def weights(order: list[int], name: str = "t", seed: int = 0) -> np.ndarray:
        tables = [EmbeddingBagConfig(name=name, embedding_dim=8, num_embeddings=1, feature_names=["f"])]
        store = CollisionlessEmbeddingBags(tables, lr=0.1, init_scale=0.5, seed=seed).store
        rows = store.find_for_training(np.zeros(len(order), np.int64), np.array(order, np.int64), 0, 0.1)
        return store.records.floats[rows, WEIGHTS : WEIGHTS + 8][np.argsort(order)]

    same = weights([5, -7, 2**40])
    np.testing.assert_array_equal(same, weights([2**40, 5, -7]))
    assert not np.array_equal(same, weights([5, -7, 2**40], name="u"))
    assert not np.array_equal(same, weights([5, -7, 2**40], seed=1))
    many = weights(list(range(20_000)))
    assert abs(many.mean()) < 0.005 and np.abs(many).max() <= 0.5 and abs(many.std() - 0.5 / np.sqrt(3)) < 0.005


def test_a_full_table_gives_no_more_rows() -> None:
    tables = [EmbeddingBagConfig(name="t", embedding_dim=4, num_embeddings=1, feature_names=["f"])]
    bags = CollisionlessEmbeddingBags(tables, lr=0.1, init_scale=0.1, rules={"t": TableRules("t", max_rows=3)})
    rows = bags.store.find_for_training(np.zeros(9, np.int64), np.arange(9), 0, 0.1)
    assert sorted(rows.tolist()) == [0] * 6 + [1, 2, 3] and len(bags.store) == 3


def test_the_order_of_a_batch_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    ids, grad = rng.integers(0, 6, 64), rng.normal(size=(64, 4)).astype(np.float32)
    ends = []
    for order in (np.arange(64), rng.permutation(64)):
        tables = [EmbeddingBagConfig(name="t", embedding_dim=4, num_embeddings=1, feature_names=["f"])]
        bags = CollisionlessEmbeddingBags(tables, lr=0.1, init_scale=0.1)
        features = KeyedJaggedTensor(["f"], torch.from_numpy(ids[order]), lengths=torch.ones(64, dtype=torch.int64))
        bags(features).values().backward(torch.from_numpy(grad[order]))
        ends.append(bags.store.records.floats[bags.store.rows_of(0), WEIGHTS : WEIGHTS + 4])
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
