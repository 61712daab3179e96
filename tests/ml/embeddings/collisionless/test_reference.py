"""Collisionless tables and the reference tables in plain torch have equal rows, counts and weights after equal operations."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ml.embeddings.collisionless.bags import CollisionlessEmbeddingBags
from ml.embeddings.optimizers import Kind, RowOptimizer
from ml.embeddings.rules import TableRules
from tests.helpers.reference_tables import ReferenceEmbeddingBags

SECOND = 1_000_000
KINDS: list[Kind] = ["sgd", "adagrad", "rowwise_adagrad", "adam", "ftrl"]
TABLES = [
    EmbeddingBagConfig(name="t", embedding_dim=4, num_embeddings=1, feature_names=["f", "g"], pooling=PoolingType.MEAN),
    EmbeddingBagConfig(name="u", embedding_dim=4, num_embeddings=1, feature_names=["h"], pooling=PoolingType.SUM),
]
FILTERS = st.sampled_from([("exact", None), ("sliding", 4.0), ("probabilistic", None)])
RULES = st.builds(
    lambda name, after, kind, ttl, cap, evict: TableRules(name, after, kind[0], kind[1], ttl, cap, evict),
    st.just("t"),
    st.sampled_from([1, 2, 3, 5]),
    FILTERS,
    st.sampled_from([None, 10.0]),
    st.sampled_from([None, 3, 20]),
    st.sampled_from(["never", "least_recently_used", "least_frequently_used"]),
)


def batch(rng: np.random.Generator, weighted: bool) -> KeyedJaggedTensor:
    lengths = rng.integers(0, 4, 3 * 8)
    ids = rng.integers(-12, 12, lengths.sum()) * rng.choice([1, 2**40], lengths.sum())
    weights = torch.from_numpy(rng.random(len(ids), np.float32)) if weighted else None
    return KeyedJaggedTensor(list("fgh"), torch.from_numpy(ids), weights, torch.from_numpy(lengths))


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(RULES, RULES, st.integers(0, 2**16), st.booleans())
def test_both_have_the_same_state_after_the_same_operations(
    kind: Kind, one: TableRules, other: TableRules, seed: int, weighted: bool
) -> None:
    rules = {"t": one, "u": TableRules(**{**vars(other), "name": "u"})}
    optimizer = RowOptimizer(kind, eps=1e-3, initial_accumulator=0.1, l1=0.01, l2=0.01)
    asked = {"lr": 0.1, "init_scale": 0.2, "optimizer": optimizer, "rules": rules, "weighted": weighted, "seed": seed}
    fast, slow = CollisionlessEmbeddingBags(TABLES, **asked), ReferenceEmbeddingBags(TABLES, **asked, device=device())
    rng, now = np.random.default_rng(seed), 0
    for step in range(10):
        now += int(rng.integers(0, 4)) * SECOND + 123
        features = batch(rng, weighted)
        training = step % 4 != 3
        for bags in (fast, slow):
            bags.train(training)
            bags.set_time(now)
            bags.set_learning_rate(0.1 / (1 + step))
        ours, theirs = fast(features).values(), slow(features.to(slow.device)).values()
        torch.testing.assert_close(ours, theirs.cpu(), rtol=1e-3, atol=1e-4)
        if training:
            grad = torch.from_numpy(rng.normal(size=ours.shape).astype(np.float32))
            ours.backward(grad)
            theirs.backward(grad.to(slow.device))
        if step == 7:
            fast.begin_pass()
            slow.begin_pass()
        if step % 3 == 2:
            assert fast.store.expire(now) == slow.expire(now)
        same(fast, slow)
        if step == 5:
            again = CollisionlessEmbeddingBags(TABLES, **asked)
            again.restore(slow.weights(), slow.training_state() | {"pass": torch.zeros(6, 2, dtype=torch.int64)})
            there = ReferenceEmbeddingBags(TABLES, **asked, device=device())
            there.restore(fast.weights(), fast.training_state())
            fast, slow = again, there


def same(fast: CollisionlessEmbeddingBags, slow: ReferenceEmbeddingBags) -> None:
    mine, others = fast.weights() | fast.training_state(), slow.weights() | slow.training_state()
    for name, tensor in others.items():
        message = f"{name}: {mine[name]} here, {tensor} there"
        torch.testing.assert_close(mine[name], tensor.cpu(), rtol=1e-3, atol=1e-4, msg=message)


def test_tables_need_no_fbgemm() -> None:
    code = """
import sys
sys.modules["fbgemm_gpu"] = None
import ml.embeddings.collisionless.store, ml.artifacts.inspect
assert not any(name.startswith("torchrec") for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
