"""A snapshot is read bit for bit: from any number of shards into any number, also after a writer was killed."""

from __future__ import annotations

import contextlib
import json
import os
import re
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

from ml.artifacts.snapshot import (
    OPTIMIZER,
    STATE,
    TABLES,
    WEIGHTS,
    CheckpointShard,
    DamagedSnapshot,
    Tensors,
    below,
    copy_weights,
    digest,
    file_name,
    load_tensors,
    own_tensors,
    save_shard,
    write_files,
    write_state,
)
from ml.distributed.process_group import Ranks
from ml.embeddings.collisionless import state_dict
from ml.embeddings.collisionless.deltas import create_delta
from ml.embeddings.collisionless.store import Store
from ml.lake import Lake
from tests.helpers.stores import NAMES, SECOND, held, new_store, same, step, trained_store

PATH = "model.bags"
DENSE: Tensors = {f"dense/{n}": torch.arange(float(size)) for n, size in (("a", 9), ("b", 5), ("c", 4), ("d", 0))}


def shard_of(store: Store, rank: int, ranks: int) -> CheckpointShard:
    """Return the shard of one of several ranks that share a store."""
    part = state_dict.shard(held(store), NAMES, rank, ranks)
    named = {f"{TABLES}{PATH}/{name}": tensor for name, tensor in part.items()}
    weights = {
        name: tensor for name, tensor in named.items() if name.removeprefix(f"{TABLES}{PATH}/") in state_dict.weights(store)
    }
    optimizer = {name: tensor for name, tensor in named.items() if name not in weights}
    by_id = {PATH: NAMES}
    return CheckpointShard(own_tensors(weights | DENSE, by_id, rank, ranks), optimizer, {"steps": 7}, by_id)


def write(store: Store, folder: Path, shards: int = 1) -> Path:
    folder.mkdir(exist_ok=True)
    parts = [shard_of(store, number, shards) for number in range(shards)]
    digests = {name: of for n, part in enumerate(parts) for name, of in write_files(part, folder, n, shards).items()}
    write_state(parts[0], folder, digests, shards)
    return folder


def columns_of(shard: CheckpointShard) -> Tensors:
    return below(shard.weights | (shard.optimizer or {}), f"{TABLES}{PATH}/")


def restored(folder: Path, ranks: Ranks | None = None) -> Store:
    shard, store = load_tensors(folder, ranks), new_store()
    optimizer = below(shard.optimizer or {}, f"{TABLES}{PATH}/")
    state_dict.restore(store, below(shard.weights, f"{TABLES}{PATH}/"), optimizer)
    return store


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 20), st.integers(1, 5), st.integers(1, 5), st.integers(0, 99))
def test_any_number_of_shards_becomes_any_other(steps: int, written: int, read: int, seed: int) -> None:
    store = trained_store(steps, seed)
    with tempfile.TemporaryDirectory() as root:
        folder = write(store, Path(root), written)
        shards = [load_tensors(folder, Ranks(rank, read)) for rank in range(read)]
        parts = [restored(folder, Ranks(rank, read)) for rank in range(read)]
        alone = load_tensors(folder)
    assert all(torch.equal(value, columns_of(alone)[name]) for name, value in held(store).items())
    for shard in (alone, *shards):
        assert shard.metadata == {"steps": 7} and shard.sharded_by_id == {PATH: NAMES}
        assert all(torch.equal(shard.weights[name], tensor) for name, tensor in DENSE.items()), "every rank has them whole"
    assert sum(len(part) for part in parts) == len(store)
    whole = state_dict.merge_shards([held(part) for part in parts], NAMES)
    assert all(torch.equal(value, whole[name]) for name, value in held(store).items())


def test_tensors_that_all_ranks_have_are_written_once_and_shared_evenly() -> None:
    parts = [own_tensors(DENSE, {}, rank, 2) for rank in range(2)]
    assert parts[0].keys() | parts[1].keys() == DENSE.keys() and not parts[0].keys() & parts[1].keys()
    assert [sum(len(tensor) for tensor in part.values()) for part in parts] == [9, 9]


def test_a_store_that_was_read_trains_on_as_one_that_was_not(tmp_path: Path) -> None:
    store = trained_store(10)
    again = restored(write(store, tmp_path))
    assert same(store, again)
    for one in (store, again):
        rng = np.random.default_rng(5)
        for now in range(10, 30):
            step(one, rng.integers(-60, 60, (3, 30)), now, rng)
            one.expire(now * SECOND)
    assert same(store, again)
    assert create_delta(store, 3).rows == create_delta(again, 3).rows > 0


@pytest.mark.parametrize("shards", [1, 3])
def test_the_same_state_gives_the_same_bytes(tmp_path: Path, shards: int) -> None:
    one, other = (write(trained_store(9), tmp_path / name, shards) for name in ("a", "b"))
    assert {p.name: p.read_bytes() for p in one.iterdir()} == {p.name: p.read_bytes() for p in other.iterdir()}
    assert len(list(one.iterdir())) == 2 * shards + 1
    assert digest(one) == digest(other) != digest(write(trained_store(9, seed=1), tmp_path / "c", shards))


def test_every_file_is_recorded_and_verified(tmp_path: Path) -> None:
    folder = write(trained_store(9), tmp_path, shards=2)
    names = [file_name(kind, number, 2) for kind in (WEIGHTS, OPTIMIZER) for number in range(2)]
    assert set(json.loads((folder / STATE).read_text())["files"]) == set(names)
    assert {path.name for path in folder.iterdir()} == {*names, STATE}
    for name in names:
        path = folder / name
        whole = path.read_bytes()
        for damaged in (whole[:100], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
            path.write_bytes(damaged)
            with pytest.raises(DamagedSnapshot, match=f"{path} is not the file that state.json describes; restore the folder"):
                load_tensors(folder)
        path.unlink()
        with pytest.raises(DamagedSnapshot, match=f"{path} is missing; restore the folder from a copy, or train its day again"):
            load_tensors(folder)
        path.write_bytes(whole)
    load_tensors(folder)


@pytest.mark.parametrize("value", [None, "other"])
@pytest.mark.parametrize("key", ["shards", "files", "sharded_by_id", "independent", "metadata"])
def test_a_damaged_state_names_the_key(key: str, value: str | None, tmp_path: Path) -> None:
    save_shard(CheckpointShard({"dense/w": torch.ones(2)}, None, {}), tmp_path)
    state = json.loads((tmp_path / STATE).read_text())
    (tmp_path / STATE).write_text(
        json.dumps({name: of for name, of in state.items() if name != key} | ({key: value} if value else {}))
    )
    with pytest.raises(DamagedSnapshot, match=rf"{key}: expected .*, found {value!r}; restore the folder"):
        load_tensors(tmp_path)


@pytest.mark.parametrize("sharded_by_id", [{"elsewhere": ["u"]}, {"elsewhere": []}, {PATH: [*NAMES, "unknown"]}])
def test_tables_that_no_file_holds_are_refused_by_name(sharded_by_id: dict[str, list[str]], tmp_path: Path) -> None:
    folder = write(trained_store(3), tmp_path, shards=2)
    state = json.loads((folder / STATE).read_text())
    (folder / STATE).write_text(json.dumps(state | {"sharded_by_id": state["sharded_by_id"] | sharded_by_id}))
    ((path, tables),) = sharded_by_id.items()
    said = f"train its day again: sharded_by_id: expected ids of the tables {tables} of {path!r}, found ["
    for ranks in (None, Ranks(1, 2)):
        with pytest.raises(DamagedSnapshot, match=re.escape(said)):
            load_tensors(folder, ranks)


def test_predictions_need_no_optimizer_files(tmp_path: Path) -> None:
    store = trained_store(9)
    folder = write(store, tmp_path / "whole", shards=3)
    for number in range(3):
        (folder / file_name(OPTIMIZER, number, 3)).unlink()
    loaded = load_tensors(folder, for_training=False)
    assert loaded.optimizer is None
    assert all(torch.equal(columns_of(loaded)[name], tensor) for name, tensor in state_dict.weights(store).items())
    (tmp_path / "copied").mkdir()
    copy_weights(folder, tmp_path / "copied", {"spec.json": "ab"})
    assert columns_of(load_tensors(tmp_path / "copied", for_training=False)).keys() == state_dict.weights(store).keys()
    files = json.loads((tmp_path / "copied" / STATE).read_text())["files"]
    assert set(files) == {"spec.json", *(file_name(WEIGHTS, number, 3) for number in range(3))}


WRITER = """
import sys
import numpy as np
from tests.helpers.stores import trained_store
from tests.ml.artifacts.test_snapshot import commit
from ml.lake import Lake
lake, store = Lake.at({root!r}), trained_store(3)
commit(lake, store)
store.insert(np.zeros(400_000, np.int64), np.arange(1000, 401_000))
while True:
    store.step += 1
    print("writing", flush=True)
    commit(lake, store, shards=3)
"""


def commit(lake: Lake, store: Store, shards: int = 1) -> None:
    with lake.write("tuned_models", "made", "2026-01-01") as folder:
        write(store, Path(folder.path), shards)
        lake.write_manifest(folder, {})


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.15])
def test_a_kill_while_writing_leaves_the_one_before(lake: Lake, delay: float) -> None:
    code = WRITER.format(root=str(lake.root))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == "writing\n"
        time.sleep(delay)
        os.kill(writer.pid, signal.SIGKILL)
    if not lake.has("tuned_models", "made", "2026-01-01"):  # killed between two renames: the next writer restores the first
        with contextlib.suppress(InterruptedError), lake.write("tuned_models", "made", "2026-01-01"):
            raise InterruptedError
    found = restored(Path(lake.require("tuned_models", "made", "2026-01-01").path))
    assert same(found, trained_store(3)) or len(found) > 400_000  # the second one was whole after all


def test_a_write_after_a_kill_replaces_what_is_there(lake: Lake) -> None:
    commit(lake, trained_store(9))
    commit(lake, trained_store(12), shards=2)
    folder = Path(lake.require("tuned_models", "made", "2026-01-01").path)
    assert same(restored(folder), trained_store(12)) and not list(folder.parent.glob(".staging/*"))


def test_one_process_writes_its_shard_alone(tmp_path: Path) -> None:
    save_shard(shard_of(trained_store(5), 0, 1), tmp_path)
    assert same(restored(tmp_path), trained_store(5))
