"""Stores of a single collisionless table, which tests train on a few ids and inspect."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ml.embeddings.collisionless.batch import Occurrences
from ml.embeddings.collisionless.row_layout import COUNT, STEP, WEIGHTS
from ml.embeddings.collisionless.store import Store
from ml.embeddings.optimizers import RowOptimizer
from ml.embeddings.rules import TableRules

SECOND = 1_000_000
LR = 0.1


def new_store(rule: TableRules | None = None, dim: int = 8, scale: float = 0.1, seed: int = 0) -> Store:
    """A store of one table."""
    return Store([rule or TableRules("t")], dim, RowOptimizer(), scale, seed)


def train_ids(store: Store, ids: NDArray, now: int = 0) -> None:
    """One step on a batch with one id per example, for the only feature. now: microseconds."""
    batch = Occurrences(np.asarray(ids, np.int64), np.arange(len(ids) + 1))
    _, pending = store.look_up_for_training(batch, now)
    store.update(pending, np.ones((len(ids), store.dim), np.float32), LR)


def columns_of(store: Store, number: int) -> dict[str, NDArray]:
    """One table in the order of ids: `id`, `count`, `seen` (seconds), `step`, and `norm` of the weights."""
    rows = store.rows_of(number)
    weights, words = store.array.floats[rows, WEIGHTS : WEIGHTS + store.dim], store.array.words[rows]
    return {
        "id": store.array.longs[rows, 0],
        "count": words[:, COUNT],
        "seen": store.array.seen(rows),
        "step": words[:, STEP],
        "norm": np.linalg.norm(weights, axis=1),
    }
