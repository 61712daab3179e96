"""Rows are found, admitted, updated, evicted and expired by the rules of their table."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ml.embeddings.collisionless.batch import Occurrences
from ml.embeddings.collisionless.row_layout import COUNT, MOST
from ml.embeddings.collisionless.store import Store
from ml.embeddings.optimizers import RowOptimizer
from ml.embeddings.rules import TableRules
from tests.helpers.single_table import LR, SECOND, columns_of, new_store, train_ids


def test_ids_never_share_rows_and_rows_grow_as_needed() -> None:
    store, rng = new_store(), np.random.default_rng(0)
    ids = np.unique(rng.integers(-(2**63), 2**63 - 1, 50_000))
    for part in np.array_split(rng.permutation(ids), 37):
        train_ids(store, part)
    rows = store.find(np.zeros(len(ids), np.int64), ids)
    assert len(np.unique(rows)) == len(ids) == len(store) and rows.min() == 1


def test_first_weights_depend_only_on_seed_table_and_id() -> None:
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


def test_a_full_table_that_never_evicts_admits_no_more_ids() -> None:
    store = new_store(TableRules("t", max_rows=3, evict="never"))
    train_ids(store, np.arange(9))
    assert columns_of(store, 0)["id"].tolist() == [0, 1, 2] and len(store) == 3


def test_a_full_table_evicts_the_least_recently_or_least_frequently_used_row() -> None:
    kept = {}
    for evict in ("least_recently_used", "least_frequently_used"):
        store = new_store(TableRules("t", max_rows=3, evict=evict))
        for second, ids in enumerate([[1, 1, 1], [2, 2], [3], [4]]):
            train_ids(store, np.array(ids), second * SECOND)
        kept[evict] = columns_of(store, 0)["id"].tolist()
        assert store.counters.evicted.tolist() == [1] and store.counters.admitted.tolist() == [4]
    assert kept == {"least_recently_used": [2, 3, 4], "least_frequently_used": [1, 2, 4]}


def test_the_probabilistic_filter_admits_after_min_count_on_average() -> None:
    store = new_store(TableRules("t", min_count=10, filter="probabilistic"))
    ids, seen_before = np.arange(20_000), np.zeros(20_000)
    for _ in range(60):
        seen_before += store.find(np.zeros(len(ids), np.int64), ids) == 0
        train_ids(store, ids)
    # The distribution is geometric with mean 10. It is truncated at 60, where 0.2 % of the ids are left.
    assert abs(seen_before.mean() - 10) < 0.3 and len(store) > 19_900
    assert store.candidates.by_table().sum() == 0


def test_rows_that_were_deleted_before_their_update_are_an_error() -> None:
    store = new_store(TableRules("t", ttl_seconds=1.0))
    _, pending = store.look_up_for_training(Occurrences(np.array([1]), np.array([0, 1])), 0)
    store.expire(99 * SECOND)
    with pytest.raises(RuntimeError, match="expire rows only between training steps"):
        store.update(pending, np.ones((1, 8), np.float32), LR)


def test_a_row_that_awaits_the_update_of_an_earlier_batch_is_not_evicted() -> None:
    store = new_store(TableRules("t", max_rows=2))
    _, first = store.look_up_for_training(Occurrences(np.array([1, 2]), np.arange(3)), 0)
    _, second = store.look_up_for_training(Occurrences(np.array([3, 4]), np.arange(3)), SECOND)
    assert columns_of(store, 0)["id"].tolist() == [1, 2]
    for pending in (second, first):
        store.update(pending, np.ones((2, 8), np.float32), LR)
    train_ids(store, np.array([3, 4]), 2 * SECOND)
    assert columns_of(store, 0)["id"].tolist() == [3, 4]


def test_probabilistic_admission_does_not_depend_on_the_order_of_ids() -> None:
    ids, held = np.arange(300), []
    for order in (ids, ids[::-1]):
        store = new_store(TableRules("t", 3, "probabilistic"))
        train_ids(store, np.concatenate([order, order]))
        held.append(columns_of(store, 0)["id"].tolist())
    assert held[0] == held[1] and 100 < len(held[0]) < 230  # the expected number is 300 * (1 - (2/3)^2) = 167


def test_probabilistic_admission_draws_new_numbers_at_each_look_up() -> None:
    store = new_store(TableRules("t", 3, "probabilistic"))
    for _ in range(40):
        store.look_up_for_training(Occurrences(np.array([7, 8, 9]), np.arange(4)), 0)
    assert len(store) == 3


def test_rows_are_kept_for_at_least_their_time_to_live() -> None:
    store = new_store(TableRules("t", ttl_seconds=1.0))
    train_ids(store, np.array([1]), 10_999_999)
    assert store.expire(11_200_000) == 0 and store.expire(12_100_000) == 1


@pytest.mark.parametrize("now", [-5, 2**62, 2**63])
def test_times_out_of_range_are_clipped(now: int) -> None:
    store = new_store(TableRules("t", ttl_seconds=1.0))
    train_ids(store, np.array([1]), now)
    assert store.time == min(max(now, 0), (2**32 - 1) * SECOND) and store.expire(store.time) == 0


def test_a_min_count_beyond_the_range_of_a_sliding_filter_is_refused() -> None:
    with pytest.raises(ValueError, match="a sliding filter can be at most 524287"):
        TableRules("t", 2**19, "sliding", 4.0)


@pytest.mark.parametrize("l1", [0.0, 0.01])
def test_a_change_of_the_learning_rate_alone_does_not_move_ftrl_rows(l1: float) -> None:
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


@pytest.mark.slow
def test_another_process_loads_compiled_kernels_from_the_cache(tmp_path: Path) -> None:
    code = """
import numpy as np
from ml.embeddings.optimizers import CODES, RowOptimizer
from ml.embeddings.collisionless.batch import Occurrences
from ml.embeddings.collisionless.lookup import reader
from ml.embeddings.rules import TableRules
from ml.embeddings.collisionless.store import Store
from ml.embeddings.collisionless.update import trainer
store = Store([TableRules("t")], 4, RowOptimizer("adagrad"), 0.1, 0)
_, pending = store.look_up_for_training(Occurrences(np.array([1]), np.arange(2)), 0)
store.update(pending, np.ones((1, 4), np.float32), 0.1)
kernels = (reader(4, True), trainer(4, CODES["adagrad"]))
print([sum(kernel.stats.cache_hits.values()) for kernel in kernels])
"""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    outputs = [subprocess.check_output([sys.executable, "-c", code], env=environment, text=True) for _ in range(2)]
    assert [text.split("\n")[-2] for text in outputs] == ["[0, 0]", "[1, 1]"]


def test_a_batch_that_fills_the_table_does_not_evict_its_own_rows() -> None:
    store = new_store(TableRules("t", max_rows=2))
    for _ in range(3):
        train_ids(store, np.array([1, 2, 3, 4]))
        assert len(store) == 2
    assert columns_of(store, 0)["id"].tolist() == [1, 2]


def test_counts_stop_at_their_largest_value() -> None:
    store = new_store()
    train_ids(store, np.array([7]))
    store.array.words[store.rows_of(0), COUNT] = MOST - 1
    for _ in range(3):
        train_ids(store, np.array([7]))
    assert columns_of(store, 0)["count"].tolist() == [MOST]
    store.step = MOST
    with pytest.raises(OverflowError, match="the step has reached its maximum, 2147483647"):
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


def test_nbytes_is_the_size_of_rows_and_hash_map() -> None:
    store, n = new_store(dim=16), 700_000
    store.insert(np.zeros(n, np.int64), np.arange(n))
    header, weights, per_slot = 32, 64, 16
    assert store.row_bytes == header + weights
    assert store.nbytes == (n + 1) * store.row_bytes + len(store.hash_map.slots) * per_slot + store.candidates.nbytes
