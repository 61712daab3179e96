"""Collisionless stores with a history: rows admitted, expired, evicted and candidates for admission."""

from __future__ import annotations

import numpy as np
import torch

from ml.embeddings.collisionless import state_dict
from ml.embeddings.collisionless.batch import Occurrences
from ml.embeddings.collisionless.store import Store
from ml.embeddings.optimizers import RowOptimizer
from ml.embeddings.rules import TableRules

SECOND = 1_000_000
RULES = [TableRules("t", min_count=2, ttl_seconds=5.0), TableRules("u", max_rows=40), TableRules("v", 3, "sliding", 4.0)]
NAMES = [rule.name for rule in RULES]


def new_store() -> Store:
    return Store(RULES, 4, RowOptimizer("adam"), 0.1, 0)


def step(store: Store, ids: np.ndarray, now: int, rng: np.random.Generator) -> None:
    """One id of each table per example. ids: [3, B]."""
    batch = Occurrences(ids.reshape(-1).astype(np.int64), np.arange(ids.size + 1))
    _, pending = store.look_up_for_training(batch, now * SECOND)
    store.update(pending, rng.normal(size=(ids.shape[1], 12)).astype(np.float32), 0.1)


def trained_store(steps: int, seed: int = 0) -> Store:
    store, rng = new_store(), np.random.default_rng(seed)
    for now in range(steps):
        step(store, rng.integers(-60, 60, (3, 30)), now, rng)
        if now % 4 == 3:
            store.expire(now * SECOND)
    return store


def held(store: Store) -> dict[str, torch.Tensor]:
    return state_dict.weights(store) | state_dict.training_state(store)


def same(one: Store, other: Store) -> bool:
    mine, others = held(one), held(other)
    return mine.keys() == others.keys() and all(torch.equal(mine[name], others[name]) for name in mine)
