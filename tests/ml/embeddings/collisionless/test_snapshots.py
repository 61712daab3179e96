"""What was written is what is read, in any number of shards, and however the writing ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.embeddings.collisionless import state_dict
from ml.embeddings.collisionless.snapshots import latest_snapshot, read_snapshot, write_snapshot
from ml.embeddings.collisionless.store import Occurrences, Store
from ml.embeddings.inspect import tables_of
from ml.embeddings.optimizers import Kind, RowOptimizer
from ml.embeddings.rules import TableRules

SECOND = 1_000_000
RULES = [TableRules("t", min_count=2, ttl_seconds=5.0), TableRules("u", max_rows=40), TableRules("v", 3, "sliding", 4.0)]


def new_store() -> Store:
    return Store(RULES, 4, RowOptimizer("adam"), 0.1, 0)


def step(store: Store, ids: np.ndarray, now: int, rng: np.random.Generator) -> None:
    """One id of each table per example. ids: [3, B]."""
    batch = Occurrences(ids.reshape(-1).astype(np.int64), np.arange(ids.size + 1))
    _, pending = store.look_up_for_training(batch, now * SECOND)
    store.update(pending, rng.normal(size=(ids.shape[1], 12)).astype(np.float32), 0.1)


def trained(steps: int, seed: int = 0) -> Store:
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


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 20), st.integers(1, 5), st.integers(1, 5), st.integers(0, 99))
def test_any_number_of_shards_becomes_any_other(steps: int, written: int, read: int, seed: int) -> None:
    store = trained(steps, seed)
    with tempfile.TemporaryDirectory() as root:
        folder = write_snapshot(store, Path(root), shards=written)
        parts = []
        for shard in range(read):
            part = new_store()
            read_snapshot(part, folder, shard, read)
            parts.append(part)
        assert sum(len(part) for part in parts) == len(store)
        whole = state_dict.merge_shards([held(part) for part in parts], [rule.name for rule in RULES])
        assert all(torch.equal(value, whole[name]) for name, value in held(store).items())


def test_a_store_that_was_read_goes_on_as_one_that_was_not(tmp_path: Path) -> None:
    store, again = trained(10), new_store()
    read_snapshot(again, write_snapshot(store, tmp_path))
    assert same(store, again)
    for one in (store, again):
        rng = np.random.default_rng(5)
        for now in range(10, 30):
            step(one, rng.integers(-60, 60, (3, 30)), now, rng)
            one.expire(now * SECOND)
    assert same(store, again)
    assert store.delta(3).rows == again.delta(3).rows > 0


def test_the_same_store_gives_the_same_bytes(tmp_path: Path) -> None:
    one, other = (write_snapshot(trained(9), tmp_path / name) for name in ("a", "b"))
    assert [p.read_bytes() for p in sorted(one.iterdir())] == [p.read_bytes() for p in sorted(other.iterdir())]


def test_tables_can_be_looked_at(tmp_path: Path) -> None:
    store = trained(12)
    frames = tables_of(write_snapshot(store, tmp_path, shards=3))
    for number, rule in enumerate(RULES):
        expected = store.table(number)
        assert frames[rule.name]["id"].tolist() == expected["id"].tolist()
        assert frames[rule.name]["count"].tolist() == expected["count"].tolist()
        seconds = frames[rule.name]["seen"].map(lambda moment: int(moment.timestamp())).tolist()
        assert seconds == expected["seen"].tolist()
        np.testing.assert_allclose(frames[rule.name]["norm"], expected["norm"], rtol=1e-5)


def test_missing_shards_and_other_tables_are_named(tmp_path: Path) -> None:
    folder = write_snapshot(trained(5), tmp_path, shards=2)
    other = Store([TableRules("x")], 4, RowOptimizer("adam"), 0.1, 0)
    with pytest.raises(ValueError, match=r"x\.id"):
        state_dict.restore(other, state_dict.weights(trained(1)), None)
    next(folder.iterdir()).unlink()
    with pytest.raises(FileNotFoundError, match="1 of 2 shards"):
        read_snapshot(new_store(), folder)


WRITER = """
import sys
import numpy as np
from pathlib import Path
from tests.ml.embeddings.collisionless.test_snapshots import new_store, trained
from ml.embeddings.collisionless.snapshots import write_snapshot
store = trained(3)
print(write_snapshot(store, Path({root!r})), flush=True)
store.insert(np.zeros(400_000, np.int64), np.arange(1000, 401_000))
while True:
    store.step += 1
    print("writing", flush=True)
    write_snapshot(store, Path({root!r}), shards=3)
"""


def test_a_kill_while_writing_leaves_the_one_before(tmp_path: Path) -> None:
    for attempt, delay in enumerate((0.0, 0.05, 0.15)):
        root = tmp_path / str(attempt)
        code = WRITER.format(root=str(root))
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            first = Path(writer.stdout.readline().strip())
            assert writer.stdout.readline() == "writing\n"
            time.sleep(delay)
            os.kill(writer.pid, signal.SIGKILL)
        found = latest_snapshot(root)
        assert found is not None
        store = new_store()
        read_snapshot(store, found)
        assert found != first or same(store, trained(3))
        if found != first:
            assert len(store) > 400_000  # the one that was being written was whole after all


def saved(store: Store) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    return state_dict.weights(store), state_dict.training_state(store)


def other_store(rules: list[TableRules] = RULES, kind: Kind = "adam") -> Store:
    return Store(rules, 4, RowOptimizer(kind), 0.1, 0)


@pytest.mark.parametrize(
    ("store", "said"),
    [
        (other_store(kind="ftrl"), "optimizer: expected ftrl, found adam"),
        (other_store([RULES[1], RULES[0], RULES[2]]), r"tables: expected \['u', 't', 'v'\], found \['t', 'u', 'v'\]"),
        (other_store([*RULES[:2], TableRules("v", 3)]), "filters: expected"),
        (other_store(RULES[:2]), "not expected"),
    ],
)
def test_what_is_of_other_rules_is_refused_before_a_row_is_made(store: Store, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        state_dict.restore(store, *saved(trained(12)))
    assert len(store) == 0 and store.step == 0


def test_ids_given_twice_and_columns_left_out_are_refused() -> None:
    weights, state = saved(trained(12))
    twice = weights | {"t.id": torch.zeros_like(weights["t.id"])}
    with pytest.raises(ValueError, match="each id once"):
        state_dict.restore(new_store(), twice, state)
    with pytest.raises(ValueError, match=r"lacks \['u.seen'\]"):
        state_dict.restore(new_store(), weights, {name: tensor for name, tensor in state.items() if name != "u.seen"})


def test_a_window_of_another_length_lets_what_waits_wait_anew() -> None:
    store = trained(12)
    other = other_store([*RULES[:2], TableRules("v", 3, "sliding", 8.0)])
    state_dict.restore(other, *saved(store))
    assert store.num_candidates().tolist()[2] > 0
    assert other.num_candidates().tolist() == [*store.num_candidates().tolist()[:2], 0]


def test_a_lower_cap_is_kept_at_once() -> None:
    store = trained(20)
    assert store.live[1] == 40
    other = other_store([RULES[0], TableRules("u", max_rows=10), RULES[2]])
    state_dict.restore(other, *saved(store))
    assert other.live.tolist() == [store.live[0], 10, store.live[2]]


def test_another_history_of_the_same_version_takes_its_place(tmp_path: Path) -> None:
    one, other = trained(9, seed=0), trained(9, seed=1)
    other.step = one.step
    folder = write_snapshot(one, tmp_path)
    before = (folder / "shard-00000-of-00001.safetensors").stat().st_mtime_ns
    assert write_snapshot(one, tmp_path) == folder
    assert (folder / "shard-00000-of-00001.safetensors").stat().st_mtime_ns == before, "the same is left alone"
    assert write_snapshot(other, tmp_path) == folder
    back = new_store()
    read_snapshot(back, folder)
    assert same(back, other) and [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_what_killed_writers_left_is_removed(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for pid in (gone.pid, os.getppid()):
        (tmp_path / f".writing-{pid}-000000000001").mkdir()
    write_snapshot(trained(3), tmp_path)
    assert [path.name for path in tmp_path.glob(".writing-*")] == [f".writing-{os.getppid()}-000000000001"]


def test_a_snapshot_that_can_not_be_read_says_which_and_why(tmp_path: Path) -> None:
    folder = write_snapshot(trained(9), tmp_path, shards=2)
    with pytest.raises(ValueError, match="shard: expected 0 to 1, found 5"):
        read_snapshot(new_store(), folder, shard=5, shards=2)
    with pytest.raises(ValueError, match=r"expected tables \['b'\]; \['b.id'\] are missing"):
        read_snapshot(other_store([TableRules("b")]), folder)
    path = folder / "shard-00001-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"shard-00001-of-00002\.safetensors is damaged"):
        read_snapshot(new_store(), folder)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="1 of 2 shards are there"):
        tables_of(folder)
