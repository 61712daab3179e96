"""Whole stores on disk: a folder per step, a safetensors file per shard, written aside and renamed.

    <root>/<step>/shard-00000-of-00002.safetensors    the columns of `state_dict.weights` and `state_dict.training_state`

An interrupted writing leaves a folder that no one reads, and the snapshot before as it was. Shards are read into any other
number of shards. How the model around the tables is kept is `ml.artifacts.snapshot`.
"""

from __future__ import annotations

import filecmp
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ml.embeddings.collisionless import state_dict
from ml.embeddings.collisionless.store import Store

_ASIDE = ".writing-"


def write_snapshot(store: Store, root: Path, shards: int = 1) -> Path:
    """Write all of a store below `root`, which is made if need be. Gives its folder; one of this step that is there already
    is replaced, unless it is the same. What killed writers left is removed."""
    folder = root / f"{store.step:012d}"
    root.mkdir(parents=True, exist_ok=True)
    _clear(root)
    aside = root / f"{_ASIDE}{os.getpid()}-{folder.name}"
    aside.mkdir()
    whole = state_dict.weights(store) | state_dict.training_state(store)
    tables = [rule.name for rule in store.rules]
    for shard in range(shards):
        part = state_dict.shard(whole, tables, shard, shards) if shards > 1 else whole
        path = aside / f"shard-{shard:05d}-of-{shards:05d}.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in part.items()}, path)
        _sync(path)
    _sync(aside)
    if folder.exists():
        if _same(folder, aside):
            shutil.rmtree(aside)
            return folder
        folder.rename(root / f"{_ASIDE}{os.getpid()}-{folder.name}.replaced")
    aside.rename(folder)
    _clear(root)
    _sync(root)
    return folder


def read_snapshot(store: Store, folder: Path, shard: int = 0, shards: int = 1, for_training: bool = True) -> None:
    """Fill a new store with one shard of so many of a snapshot, however many it was written in.

    Raises `FileNotFoundError` where shards are missing, `ValueError` where the tables are others or a file is damaged.
    """
    if not 0 <= shard < shards:
        raise ValueError(f"shard: expected 0 to {shards - 1}, found {shard}")
    tables = [rule.name for rule in store.rules]
    parts = [state_dict.shard(_load(path), tables, shard, shards) for path in shard_files(folder)]
    if missing := {f"{table}.id" for table in tables} - set(parts[0]):
        raise ValueError(f"{folder}: expected tables {tables}; {sorted(missing)} are missing")
    whole = state_dict.merge_shards(parts, tables) if len(parts) > 1 else parts[0]
    weights, state = state_dict.split_optimizer_state(whole, tables)
    state_dict.restore(store, weights, state if for_training else None)


def latest_snapshot(root: Path) -> Path | None:
    """Folder of the newest whole snapshot."""
    return max(_snapshots(root), default=None)


def shard_files(folder: Path) -> list[Path]:
    """All shards of a snapshot. Raises `FileNotFoundError` where one is missing."""
    found = sorted(folder.glob("shard-*-of-*.safetensors"))
    expected = int(found[0].stem.rpartition("-")[2]) if found else 0
    if not found or len(found) != expected:
        raise FileNotFoundError(f"{folder}: {len(found)} of {expected or 'any'} shards are there; take an earlier snapshot")
    return found


def _snapshots(root: Path) -> Iterator[Path]:
    return (folder for folder in root.glob("[0-9]*") if folder.is_dir()) if root.is_dir() else iter(())


def _load(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); take an earlier snapshot") from error


def _same(one: Path, other: Path) -> bool:
    names = [sorted(path.name for path in folder.iterdir()) for folder in (one, other)]
    return names[0] == names[1] and all(filecmp.cmp(one / name, other / name, shallow=False) for name in names[0])


def _clear(root: Path) -> None:
    """Remove what this process, and such as are no more, left aside."""
    for left in root.glob(f"{_ASIDE}*"):
        pid = int(left.name.removeprefix(_ASIDE).partition("-")[0])
        if pid == os.getpid() or not _lives(pid):
            shutil.rmtree(left, ignore_errors=True)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _sync(path: Path) -> None:
    """On the disk, not only on its way there."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
