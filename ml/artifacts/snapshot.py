"""The files of a stored model: named tensors as safetensors, and everything else as JSON. Nothing is pickled.

Trained days, checkpoints of several ranks and exported models share one layout:

    weights-00000-of-00002.safetensors      tensors that predictions need; first of two shards
    optimizer-00000-of-00002.safetensors    tensors that only training needs; absent from models for inference
    state.json                              format, number of shards, SHA-256 of every file, and the caller's metadata

Tensors are named `dense/<name>` and `tables/<path of the collection>/<name>`. Collections in `sharded_by_id` have a part of
their rows in each shard; every other tensor is stored once, in one of the shards. A snapshot of one process has one shard. A
snapshot can be read by any number of ranks, whatever number of ranks wrote it.

This module handles tensors and files. `ml.artifacts.weights` converts a model to tensors, and `ml.training.state_dict` a
training state.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from upath import UPath

from ml.distributed.process_group import Ranks
from ml.embeddings.collisionless import state_dict
from ml.embeddings.distributed.replicas import merge_replicas

FORMAT = 6
STATE = "state.json"
WEIGHTS, OPTIMIZER = "weights", "optimizer"
TABLES, DENSE = "tables/", "dense/"
Tensors = dict[str, torch.Tensor]
_KEYS = {"shards": int, "files": dict, "sharded_by_id": dict, "independent": bool, "metadata": dict}  # of state.json
WAY_OUT = "restore the folder from a copy, or train its day again (an export: export its day again)"


class SnapshotMismatch(ValueError):
    """The snapshot has another recipe, schema or format than the caller requires."""


class DamagedSnapshot(ValueError):
    """A file of the snapshot is missing, has changed since it was written, or does not fit the others."""


@dataclass(frozen=True)
class CheckpointShard:
    """The part of a model's state that one process holds, as named tensors.

    Attributes:
        weights: Tensors that predictions need.
        optimizer: Tensors that only training needs; None for inference.
        metadata: Plain values that the caller needs to rebuild the model. The same in every shard.
        sharded_by_id: Path of each collection whose rows are sharded by id -> names of its tables, in its order.
        independent: Whether every rank trained its own tables of `sharded_by_id`, so that shards have several versions of the
            same rows.

    Example:
        >>> shard = CheckpointShard({"dense/w": torch.ones(2)}, optimizer=None, metadata={"steps": 3})
        >>> list(shard.weights), shard.sharded_by_id
        (['dense/w'], {})
    """

    weights: Tensors
    optimizer: Tensors | None
    metadata: dict[str, Any]
    sharded_by_id: dict[str, list[str]] = field(default_factory=dict)
    independent: bool = False


def file_name(kind: str, shard: int, shards: int) -> str:
    """Return the name of a shard's file. kind: `WEIGHTS` or `OPTIMIZER`."""
    return f"{kind}-{shard:05d}-of-{shards:05d}.safetensors"


def own_tensors(tensors: Tensors, sharded_by_id: Mapping[str, Sequence[str]], rank: int, ranks: int) -> Tensors:
    """Select the tensors that one rank writes: its rows of tables sharded by id, and its share of the other tensors.

    Other tensors are equal on all ranks. They are assigned largest first, each to the rank with the fewest bytes so far.

    Args:
        tensors: All tensors of the rank; the same names on every rank.
        sharded_by_id: As in `CheckpointShard`.
        rank: This rank.
        ranks: Number of ranks.

    Returns:
        The selected tensors by name.
    """
    by_id = tuple(f"{TABLES}{path}/" for path in sharded_by_id)
    load_of, owner = [0] * ranks, {}
    shared = [name for name in tensors if not name.startswith(by_id)]
    for name in sorted(shared, key=lambda name: (-tensors[name].nbytes, name)):
        owner[name] = load_of.index(min(load_of))
        load_of[owner[name]] += tensors[name].nbytes
    return {name: tensor for name, tensor in tensors.items() if owner.get(name, rank) == rank}


def save_shard(
    shard: CheckpointShard, folder: Path | UPath, ranks: Ranks | None = None, beside: Mapping[str, str] | None = None
) -> None:
    """Write this rank's shard into an existing folder. The same state gives the same bytes.

    Every rank must call it, and no rank may read before all calls have returned. Writing is not atomic; call it inside
    `Lake.write`, which is.

    Args:
        shard: The shard of this rank, with the tensors that `own_tensors` selects.
        folder: An existing folder, the same for all ranks.
        ranks: The processes that write together; None for one.
        beside: SHA-256 by name of further files that `state.json` should record.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> save_shard(CheckpointShard({"dense/w": torch.ones(2)}, None, {"steps": 3}), folder)
        >>> loaded = load_tensors(folder, for_training=False)
        >>> loaded.weights["dense/w"].tolist(), loaded.metadata
        ([1.0, 1.0], {'steps': 3})
    """
    rank, size = (ranks.rank, ranks.size) if ranks else (0, 1)
    digests = write_files(shard, folder, rank, size)
    if ranks is not None:
        numbers = struct.unpack(f">{4 * len(digests)}q", bytes.fromhex("".join(digests.values())))
        of_all = [struct.pack(f">{len(row)}q", *row).hex() for row in ranks.all_gather(*numbers)]
        kinds = [name.partition("-")[0] for name in digests]
        digests = {
            file_name(kind, number, size): row[64 * i : 64 * (i + 1)]
            for number, row in enumerate(of_all)
            for i, kind in enumerate(kinds)
        }
    if rank == 0:
        write_state(shard, folder, digests | dict(beside or {}), size)


def write_files(shard: CheckpointShard, folder: Path | UPath, number: int = 0, shards: int = 1) -> dict[str, str]:
    """Write the tensors of one shard. Returns the SHA-256 of each file by name, for `write_state`."""
    digests = {}
    for kind, tensors in ((WEIGHTS, shard.weights), (OPTIMIZER, shard.optimizer)):
        if tensors is not None:
            name = file_name(kind, number, shards)
            digests[name] = write_file(folder, name, save({key: tensor.contiguous() for key, tensor in tensors.items()}))
    return digests


def write_file(folder: Path | UPath, name: str, data: bytes) -> str:
    """Write one file of a snapshot or a bundle, in an existing folder or one level below. Returns its SHA-256."""
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def write_state(shard: CheckpointShard, folder: Path | UPath, digests: Mapping[str, str], shards: int = 1) -> None:
    """Write `state.json`, which completes a snapshot. digests: SHA-256 of the files of all shards by name."""
    state = {
        "format": FORMAT,
        "shards": shards,
        "files": dict(digests),
        "sharded_by_id": shard.sharded_by_id,
        "independent": shard.independent,
        "metadata": shard.metadata,
    }
    _write_json(folder, state)


def read_state(folder: Path | UPath) -> dict[str, Any]:
    """Read `state.json`.

    Raises:
        FileNotFoundError: The folder has no snapshot.
        SnapshotMismatch: The snapshot was written in another format.
        DamagedSnapshot: The file cannot be read.
    """
    try:
        state = json.loads((folder / STATE).read_bytes())
        found = state["format"]
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{folder} has no {STATE}: it has no model, or one of an older format; train its day again (an export: export "
            "its day again)"
        ) from error
    except (ValueError, LookupError, TypeError) as error:
        raise DamagedSnapshot(f"{folder / STATE} cannot be read ({error}); {WAY_OUT}") from error
    if found != FORMAT:
        raise SnapshotMismatch(f"{folder}: format {found}, this code reads {FORMAT}; train its day again")
    for key, kind in _KEYS.items():
        if type(state.get(key)) is not kind:
            raise DamagedSnapshot(f"{folder / STATE}: {key}: expected {kind.__name__}, found {state.get(key)!r}; {WAY_OUT}")
    return state


def load_tensors(folder: Path | UPath, ranks: Ranks | None = None, for_training: bool = True) -> CheckpointShard:
    """Read a snapshot, with all rows or only this rank's rows of tables sharded by id. Ranks do not wait for each other.

    Files are read one after the other, so that no rank has all rows of a table sharded by id in memory. Tables that ranks
    trained independently are restored unchanged on the same number of ranks, and merged on any other number.

    Args:
        folder: Folder that `save_shard` wrote.
        ranks: The processes that read together; None for one.
        for_training: Whether to read optimizer files.

    Returns:
        A shard with every tensor that is stored once, and the rows of this rank.

    Raises:
        FileNotFoundError: The folder has no snapshot.
        SnapshotMismatch: The snapshot was written in another format.
        DamagedSnapshot: A file is missing, has changed since it was written, or has no rows of a table in `sharded_by_id`; the
            message names it.
    """
    state = read_state(folder)
    rank, size = (ranks.rank, ranks.size) if ranks else (0, 1)
    shards, by_id, independent = state["shards"], state["sharded_by_id"], state["independent"]
    as_they_were = ranks is not None and independent and shards == size
    # Merging independent tables needs their training state.
    kinds = (WEIGHTS, OPTIMIZER) if for_training or (independent and shards > 1) else (WEIGHTS,)
    parts: dict[str, list[Tensors]] = {path: [] for path in by_id}
    found: dict[str, Tensors] = {kind: {} for kind in kinds}
    kind_of: dict[str, str] = {}
    for number in range(shards):
        for kind in kinds:
            tensors = _load(folder, state, file_name(kind, number, shards))
            kind_of |= dict.fromkeys(tensors, kind)
            found[kind] |= tensors
        for path, tables in by_id.items():
            columns = _take(found.values(), f"{TABLES}{path}/")
            if not columns or any(f"{table}.id" not in columns for table in tables):
                raise DamagedSnapshot(
                    f"{folder}: its tensors do not fit {STATE}; train its day again: sharded_by_id: expected ids of the tables "
                    f"{tables} of {path!r}, found {sorted(columns)}"
                )
            if not as_they_were or number == rank:
                parts[path].append(columns if independent or size == 1 else state_dict.shard(columns, tables, rank, size))
    for path, of_path in parts.items():
        combine = merge_replicas if independent else state_dict.merge_shards
        columns = of_path[0] if len(of_path) == 1 else combine(of_path, by_id[path])
        for name, tensor in columns.items():
            key = f"{TABLES}{path}/{name}"
            found[kind_of[key]][key] = tensor
    return CheckpointShard(found[WEIGHTS], found[OPTIMIZER] if for_training else None, state["metadata"], by_id, independent)


def copy_weights(source: Path | UPath, folder: Path | UPath, beside: Mapping[str, str] | None = None) -> None:
    """Copy a snapshot without its optimizer state into another folder.

    Args:
        source: Folder that `save_shard` wrote.
        folder: An existing folder.
        beside: SHA-256 by name of further files that the new `state.json` should record.

    Raises:
        FileNotFoundError: The source has no snapshot.
        SnapshotMismatch: The snapshot was written in another format.
        DamagedSnapshot: A file is missing, or has changed since it was written; the message names it.
    """
    state = read_state(source)
    names = [file_name(WEIGHTS, number, state["shards"]) for number in range(state["shards"])]
    files = {name: write_file(folder, name, read_file(source, state, name)) for name in names}
    _write_json(folder, state | {"files": files | dict(beside or {})})


def copy_snapshot(source: Path | UPath, folder: Path | UPath) -> None:
    """Copy a whole snapshot into another existing folder. The copy has the same digest.

    Raises:
        FileNotFoundError: The source has no snapshot.
        SnapshotMismatch: The snapshot was written in another format.
        DamagedSnapshot: A file is missing, or has changed since it was written; the message names it.
    """
    state = read_state(source)
    for name in state["files"]:
        write_file(folder, name, read_file(source, state, name))
    (folder / STATE).write_bytes((source / STATE).read_bytes())


def digest(folder: Path | UPath) -> str:
    """Compute the identity of a stored model: SHA-256 of its `state.json`, which has the digest of every other file."""
    return hashlib.sha256((folder / STATE).read_bytes()).hexdigest()


def read_file(folder: Path | UPath, state: Mapping[str, Any], name: str) -> bytes:
    """Read one file of a snapshot or a bundle. state: its `read_state`.

    Raises:
        DamagedSnapshot: The file is missing, or has changed since it was written.
    """
    path = folder / name
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise DamagedSnapshot(f"{path} is missing; {WAY_OUT}") from error
    if hashlib.sha256(data).hexdigest() != state["files"].get(name):
        raise DamagedSnapshot(f"{path} is not the file that {STATE} describes; {WAY_OUT}")
    return data


def below(tensors: Mapping[str, torch.Tensor], prefix: str) -> Tensors:
    """Return the tensors whose names begin with a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def differences(saved: Mapping[str, Any], asked: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Yield one line, with its path, for each key whose values differ."""
    for key in sorted({*saved, *asked}):
        a, b = saved.get(key), asked.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from differences(a, b, f"{path}{key}.")
        elif a != b:
            yield f"{path}{key}: {a!r} in the snapshot, {b!r} asked for"


def _take(held: Iterable[Tensors], prefix: str) -> Tensors:
    """Remove the tensors whose names begin with a prefix, and return them by the rest of their names."""
    names = [(tensors, name) for tensors in held for name in tensors if name.startswith(prefix)]
    return {name.removeprefix(prefix): tensors.pop(name) for tensors, name in names}


def _write_json(folder: Path | UPath, state: Mapping[str, Any]) -> None:
    (folder / STATE).write_text(json.dumps(state, indent=1, sort_keys=True))


def _load(folder: Path | UPath, state: Mapping[str, Any], name: str) -> Tensors:
    try:
        return load(read_file(folder, state, name))
    except SafetensorError as error:
        raise DamagedSnapshot(f"{folder / name} cannot be read ({error}); {WAY_OUT}") from error
