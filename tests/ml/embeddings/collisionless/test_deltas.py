"""A store that applies deltas has the rows of the sender, even if a delta is applied twice, and refuses gaps."""

from __future__ import annotations

import copy
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.embeddings.collisionless.batch import Occurrences
from ml.embeddings.collisionless.deltas import apply_delta, create_delta, trim_tombstones
from ml.embeddings.collisionless.row_layout import ID, WEIGHTS
from ml.embeddings.collisionless.state_dict import restore, training_state, weights
from ml.embeddings.collisionless.store import Store
from ml.embeddings.collisionless.touched_rows import NOTHING
from ml.embeddings.delta import Gap
from ml.embeddings.optimizers import Kind, RowOptimizer
from ml.embeddings.rules import TableRules
from tests.helpers.trials import TRIALS

DIM, SECOND = 4, 1_000_000
IDS = st.lists(st.integers(-5, 5), max_size=8)
STEP = st.tuples(st.sampled_from(["train", "train", "expire", "sync", "again"]), IDS)
TOUCH = st.tuples(
    st.sampled_from(["train", "train", "look up", "update", "delta", "delta", "expire", "apply", "trim", "restore", "many"]),
    IDS,
    st.integers(0, 3),
)


def new_store(max_rows: int | None = None) -> Store:
    rules = [
        TableRules("t", ttl_seconds=3.0),
        TableRules("u", max_rows=max_rows, evict="least_recently_used" if max_rows else "never"),
    ]
    return Store(rules, DIM, RowOptimizer(), 0.1, 0)


def held(store: Store) -> dict[tuple[int, int], tuple[int, bytes]]:
    found = {}
    for table in (0, 1):
        for row in store.rows_of(table):
            weights = store.array.floats[row, WEIGHTS : WEIGHTS + DIM].tobytes()
            found[table, int(store.array.longs[row, 0])] = (int(store.array.seen(slice(row, row + 1))[0]), weights)
    return found


def train(store: Store, ids: list[int], now: int, rng: np.random.Generator) -> None:
    tables, keys = np.array([i % 2 for i in ids], np.int64), np.array(ids, np.int64)
    order = np.argsort(tables, kind="stable")
    offsets = np.array([0, int((tables == 0).sum()), len(ids)])
    _, pending = store.look_up_for_training(Occurrences(keys[order], offsets), now)
    store.update(pending, rng.normal(size=(1, 2 * DIM)).astype(np.float32), 0.1)


@settings(max_examples=150, deadline=None)
@given(st.lists(STEP, max_size=20))
def test_deltas_transfer_all_changes(steps: list[tuple[str, list[int]]]) -> None:
    trainer, server, rng = new_store(), new_store(), np.random.default_rng(0)
    last = None
    for number, (what, ids) in enumerate(steps):
        if what == "train":
            train(trainer, ids, number * SECOND, rng)
        elif what == "expire":
            trainer.expire(number * SECOND)
        elif what == "again" and last is not None:
            before = held(server)
            assert apply_delta(server, last) is False and held(server) == before
        elif what == "sync":
            last = create_delta(trainer, server.step)
            assert apply_delta(server, last) is (trainer.step > last.since)
            assert held(server) == held(trainer) and len(server) == len(trainer) == len(server.hash_map)
    apply_delta(server, create_delta(trainer, server.step))
    fresh = new_store()
    apply_delta(fresh, create_delta(trainer, 0))
    assert held(server) == held(trainer) == held(fresh)


@settings(max_examples=100 * TRIALS, deadline=None)
@given(st.lists(TOUCH, max_size=25))
def test_the_rows_of_a_delta_are_those_that_reading_all_steps_finds(steps: list[tuple[str, list[int], int]]) -> None:
    """Whatever happens between deltas: growth, reuse of rows, admission without update, expiry, eviction, another restore."""
    store, rng = new_store(max_rows=7), np.random.default_rng(0)
    pending, other = None, new_store()
    train(other, [1, 2, 3, 4], 0, rng)
    for number, (what, ids, back) in enumerate(steps):
        if what == "train":
            train(store, ids, number * SECOND, rng)
        elif what == "look up" and ids:
            _, pending = store.look_up_for_training(
                Occurrences(np.array(ids), np.array([0, len(ids), len(ids)])), number * SECOND
            )
        elif what == "update" and pending is not None:
            with suppress(RuntimeError):  # rows were deleted since the look-up
                store.update(pending, np.ones((1, 2 * DIM), np.float32), 0.1)
            pending = None
        elif what == "expire":
            store.expire(number * SECOND)
        elif what == "apply":
            train(other, ids, number * SECOND, rng)
            own = create_delta(other, 0)
            apply_delta(store, replace(own, since=store.step, step=store.step + 1))
        elif what == "trim":
            trim_tombstones(store)
        elif what == "many":
            train(store, list(range(100, 1300)), number * SECOND, rng)
        elif what == "restore":
            pending = None
            tensors, store = (weights(store), training_state(store)), new_store(max_rows=7)
            restore(store, *tensors)
        since = max(store.step - back, store.tombstones.oldest_step)
        if what == "delta":
            fresh = copy.deepcopy(store)
            fresh.touched.clear()
            found, wanted = create_delta(store, since).to_tensors(), create_delta(fresh, since).to_tensors()
            assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_delta_reads_the_rows_that_were_touched_since_the_last_one() -> None:
    """Not all rows: online training creates a delta after every slice."""
    store, rng = new_store(), np.random.default_rng(0)
    train(store, list(range(5000)), 0, rng)
    create_delta(store, store.step)
    train(store, [7, 9, 5001], 0, rng)
    create_delta(store, store.step - 1)
    since = store.step
    train(store, [9, 11], 0, rng)
    train(store, [11, 13], 0, rng)
    touched = store.touched.since(since)
    assert touched is not None and store.array.longs[touched, ID].tolist() == [9, 11, 13]
    assert create_delta(store, since).tables["u"].keys.tolist() == [9, 11, 13]


def test_a_pass_over_most_rows_stops_the_record() -> None:
    store, rng = new_store(), np.random.default_rng(0)
    train(store, list(range(5000)), 0, rng)
    create_delta(store, store.step)
    train(store, list(range(5000)), 0, rng)
    assert store.touched.mark == NOTHING
    assert create_delta(store, store.step - 1).rows == 5000
    assert store.touched.mark == store.step


def test_a_delta_after_a_missed_delta_is_refused() -> None:
    trainer, server, rng = new_store(), new_store(), np.random.default_rng(0)
    train(trainer, [1, 2], 0, rng)
    first = trainer.step
    train(trainer, [3], 0, rng)
    with pytest.raises(Gap, match="the tables are at step 0, the delta begins after step 1"):
        apply_delta(server, create_delta(trainer, first))
    assert held(server) == {}


def test_a_delta_since_a_step_before_the_oldest_tombstones_is_refused() -> None:
    trainer, rng = new_store(), np.random.default_rng(0)
    train(trainer, [2, 4], 0, rng)
    since = trainer.step
    trainer.expire(9 * SECOND)
    assert create_delta(trainer, since).tables["t"].deleted.tolist() == [2, 4]
    trim_tombstones(trainer)
    with pytest.raises(
        Gap, match=f"since step {since} are unavailable, the oldest available step is {trainer.step}: load a snapshot"
    ):
        create_delta(trainer, since)
    assert not any(len(table.deleted) for table in create_delta(trainer, trainer.step).tables.values())


def test_a_delta_contains_only_touched_rows() -> None:
    store, rng = new_store(), np.random.default_rng(0)
    train(store, list(range(1000)), 0, rng)
    since = store.step
    train(store, [7, 9], 0, rng)
    delta = create_delta(store, since)
    assert {name: table.keys.tolist() for name, table in delta.tables.items()} == {"t": [], "u": [7, 9]}
    assert not any(len(table.deleted) for table in delta.tables.values())


def test_a_row_that_was_admitted_without_an_update_is_sent() -> None:
    trainer, server, rng = new_store(), new_store(), np.random.default_rng(0)
    train(trainer, [2], 0, rng)
    apply_delta(server, create_delta(trainer, 0))
    trainer.look_up_for_training(Occurrences(np.array([4]), np.array([0, 1, 1])), 0)
    train(trainer, [2], 0, rng)
    apply_delta(server, create_delta(trainer, server.step))
    assert held(server) == held(trainer) and len(server) == 2


def test_a_forwarded_delta_includes_applied_changes() -> None:
    trainer, near, far, rng = new_store(), new_store(), new_store(), np.random.default_rng(0)
    train(trainer, [2, 4, 6], 0, rng)
    apply_delta(near, create_delta(trainer, 0))
    train(trainer, [8], 9 * SECOND, rng)
    apply_delta(far, create_delta(trainer, 0))
    trainer.expire(9 * SECOND)
    train(trainer, [10], 9 * SECOND, rng)
    apply_delta(near, create_delta(trainer, near.step))
    apply_delta(far, create_delta(near, far.step))
    assert held(far) == held(near) == held(trainer) and far.step == trainer.step
    assert {i for _, i in held(far)} == {8, 10}


def test_a_delta_of_other_tables_is_refused_and_changes_nothing() -> None:
    trainer, server, rng = new_store(), new_store(), np.random.default_rng(0)
    train(trainer, [2, 3], 0, rng)
    good = create_delta(trainer, 0)
    narrow, by_row = replace(good.tables["t"], weights=good.tables["t"].weights[:, :1]), replace(good.tables["t"], seen=None)
    for wrong, message in (
        ({"t": narrow}, "'t' has rows of 4 weights, the delta has 1"),
        ({"t": good.tables["t"], "v": good.tables["u"]}, r"\['v'\], which are not among \['t', 'u'\]"),
        ({"u": by_row}, "'u' stores ids, the delta has row numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            apply_delta(server, replace(good, tables=wrong))
        assert server.step == 0 and len(server) == len(server.hash_map) == 0
    with pytest.raises(Gap, match="since 99 were requested"):
        create_delta(trainer, 99)


@pytest.mark.parametrize("kind", ["rowwise_adagrad", "adagrad", "adam", "ftrl"])
def test_rows_of_a_delta_get_new_optimizer_state(kind: Kind) -> None:
    """A step with a gradient of zero does not change their weights."""
    rules, optimizer = [TableRules("t")], RowOptimizer(kind, initial_accumulator=0.5)
    trainer, server = Store(rules, DIM, optimizer, 0.5, 0), Store(rules, DIM, optimizer, 0.0, 0)
    batch = Occurrences(np.array([7]), np.array([0, 1]))
    _, pending = trainer.look_up_for_training(batch, 0)
    trainer.update(pending, np.ones((1, DIM), np.float32), 0.1)
    apply_delta(server, create_delta(trainer, 0))
    out, pending = server.look_up_for_training(batch, 0)
    server.update(pending, np.zeros((1, DIM), np.float32), 0.1)
    assert np.abs(out).min() > 0
    np.testing.assert_allclose(server.look_up(batch), out, rtol=1e-6)
