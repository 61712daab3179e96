"""Collisionless tables compared with a dict and float64 optimizers, through random sequences of operations."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
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
from ml.embeddings.collisionless.row_layout import WEIGHTS
from ml.embeddings.optimizers import Kind, RowOptimizer
from ml.embeddings.rules import TableRules
from tests.helpers.dict_tables import DIM, SCALE, DictTables
from tests.helpers.single_table import LR, SECOND, columns_of, train_ids
from tests.helpers.trials import examples

KINDS: list[Kind] = ["sgd", "adagrad", "rowwise_adagrad", "adam", "ftrl"]
EDGES = [-1, 0, 1, 2**63 - 1, -(2**63), 2**24, 2**24 + 1, 5, 6]


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


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.soak
@examples(400)
@given(st.lists(STEP, min_size=1, max_size=12), RULES, st.sampled_from([1, 2]))
def test_every_sequence_of_operations_equals_a_dict(kind: Kind, steps: list, rule: TableRules, threads: int) -> None:
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
    slow, now = DictTables(optimizer, rules, seeds), 0
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
            held = columns_of(bags.store, number)
            mine = {i: row for (t, i), row in slow.rows.items() if t == table}
            assert held["id"].tolist() == sorted(mine)
            assert held["count"].tolist() == [mine[i].count for i in sorted(mine)]
            assert held["seen"].tolist() == [mine[i].seen for i in sorted(mine)]
        assert len(bags.store) == len(slow.rows) == len(bags.store.hash_map)
        assert bags.store.candidates.by_table().sum() == len(slow.candidates)
        assert rule.max_rows is None or bags.store.live[0] <= rule.max_rows
    torch.set_num_threads(before)


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


def plain_bags(**choices: Any) -> CollisionlessEmbeddingBags:
    """Return one table with one feature, weights of zero, and SGD with a learning rate of 1."""
    tables = [EmbeddingBagConfig(name="t", embedding_dim=1, num_embeddings=1, feature_names=["f"])]
    chosen = {"lr": 1.0, "init_scale": 0.0, "optimizer": RowOptimizer("sgd"), **choices}
    return CollisionlessEmbeddingBags(tables, **chosen)


def one_id(number: int) -> KeyedJaggedTensor:
    return KeyedJaggedTensor(["f"], torch.tensor([number]), lengths=torch.tensor([1]))


def test_a_second_backward_is_refused_and_changes_nothing() -> None:
    bags = plain_bags()
    loss = bags(one_id(1)).values().sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="has already been updated"):
        loss.backward()
    first, second = bags(one_id(1)).values(), bags(one_id(2)).values()
    (10 * first.sum()).backward()
    (100 * second.sum()).backward()
    assert bags.weights()["t.weight"].squeeze(1).tolist() == [-11.0, -100.0]


@pytest.mark.parametrize(
    ("values", "lengths", "weights", "message"),
    [
        ([1, 2], [500], None, "add up to 2 ids, found a sum of 500"),
        ([1, 2], [1], None, "add up to 2 ids, found a sum of 1"),
        ([1, 2], [3, -1], None, "non-negative lengths that add up to 2 ids"),
        ([1, 2], [1, 1], [0.5], "found 1 weights for 2 ids"),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_an_invalid_batch_is_refused_before_memory_is_accessed(
    values: list[int], lengths: list[int], weights: list[float] | None, message: str, training: bool
) -> None:
    bags = plain_bags(weighted=weights is not None).train(training)
    batch = KeyedJaggedTensor(
        ["f"], torch.tensor(values), torch.tensor(weights) if weights else None, lengths=torch.tensor(lengths)
    )
    with pytest.raises(ValueError, match=message):
        bags(batch)


def test_different_batch_sizes_per_feature_are_refused() -> None:
    tables = [EmbeddingBagConfig(name=f, embedding_dim=1, num_embeddings=1, feature_names=[f]) for f in "fg"]
    bags = CollisionlessEmbeddingBags(tables, lr=1.0, init_scale=0.0)
    features = KeyedJaggedTensor(
        ["f", "g"], torch.arange(5), lengths=torch.ones(5, dtype=torch.int64), stride_per_key_per_rank=[[2], [3]]
    )
    with pytest.raises(ValueError, match="the same batch size for all features"):
        bags(features)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda bags: pickle.loads(pickle.dumps(bags))])
def test_a_copy_is_independent(copied: Callable[[Any], Any]) -> None:
    bags = plain_bags()
    train_ids(bags.store, np.arange(500))
    other = copied(bags)
    for first in (500, 900, 3000):  # the copy first has room; later, the hash map and the rows must grow
        train_ids(other.store, np.arange(first, first + 400))
    assert other.weights()["t.id"].tolist() == [*range(1300), *range(3000, 3400)]
    assert len(other.store) == 1700 and len(bags.store) == 500


def test_a_state_dict_contains_the_rows() -> None:
    bags, other = plain_bags(), plain_bags()
    train_ids(bags.store, np.arange(5))
    other.load_state_dict(bags.state_dict())
    assert torch.equal(other.weights()["t.weight"], bags.weights()["t.weight"]) and len(other.store) == 5


def test_duplicate_table_names_and_rules_of_unknown_tables_are_refused() -> None:
    twice = [EmbeddingBagConfig(name="t", embedding_dim=1, num_embeddings=1, feature_names=[f]) for f in "fg"]
    with pytest.raises(ValueError, match="tables of different names"):
        CollisionlessEmbeddingBags(twice, lr=1.0, init_scale=0.0)
    for rules in ({"typo": TableRules("typo")}, {"t": TableRules("x")}):
        with pytest.raises(ValueError, match="do not match the tables"):
            plain_bags(rules=rules)


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


def test_dlrm_of_torchrec_learns_with_collisionless_tables() -> None:
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


def test_errors_name_wrong_dimensions_and_missing_features() -> None:
    table = EmbeddingBagConfig(name="t", embedding_dim=4, num_embeddings=1, feature_names=["f"])
    wide = EmbeddingBagConfig(name="u", embedding_dim=8, num_embeddings=1, feature_names=["g"])
    with pytest.raises(ValueError, match=r"one dimension, found \[4, 8\]"):
        CollisionlessEmbeddingBags([table, wide], lr=0.1, init_scale=0.1)
    bags = CollisionlessEmbeddingBags([table], lr=0.1, init_scale=0.1)
    with pytest.raises(KeyError, match=r"\['f'\] are not in the batch, which has \['x'\]"):
        bags(KeyedJaggedTensor(["x"], torch.tensor([1]), lengths=torch.tensor([1])))
