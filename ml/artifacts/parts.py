"""A training state as its ranks hold it, in a folder that each of them writes a part of, and that any other number may read.

    dense/*.safetensors                       all but the tables that are divided by id: `torch.distributed.checkpoint`, which
                                              shares out among the ranks what all of them have
    tables-00000-of-00002.safetensors         a rank's share of those tables, by `ml.embeddings.collisionless.state_dict`
    state.json                                as a snapshot's

Dense names are those of a snapshot behind `weights/` and `optimizer/`; a share has the columns of a collection of tables behind
its path. A snapshot is for whoever reads a day's model; this is for going on with it.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from upath import UPath

from ml.artifacts.snapshot import FORMAT, STATE, TABLES, Tensors, described, put_back, slots_of, state_like, weights_of
from ml.distributed.process_group import Ranks
from ml.embeddings.collisionless import state_dict
from ml.embeddings.distributed.replicas import merge
from ml.recipes.recipe import Recipe
from ml.schema import FeatureSchema
from ml.training.state import TrainState

_KINDS = {"weights/": weights_of, "optimizer/": slots_of}


@dataclass(frozen=True)
class Part:
    """A copy of what one rank holds of a state: training may go on while it is written."""

    dense: Tensors
    share: Tensors
    described: dict[str, Any]


def part_of(state: TrainState) -> Part:
    """Every rank must call it."""
    divided = {path: bags for path, bags in state.bags.items() if bags.sharded_by_id}
    share = {
        f"{path}/{name}": tensor
        for path, bags in divided.items()
        for name, tensor in (bags.weights() | bags.training_state()).items()
    }
    rest = replace(state, bags={path: bags for path, bags in state.bags.items() if path not in divided})
    dense = {kind + name: tensor.clone() for kind, of in _KINDS.items() for name, tensor in of(rest).items()}
    return Part(dense, share, described(state))


def write_part(part: Part, folder: UPath, ranks: Ranks | None = None) -> None:
    """Write this rank's part into `folder`, which is there. Every rank must call it; none may read before all have written."""
    rank, size = (ranks.rank, ranks.size) if ranks else (0, 1)
    with _local(folder) as here:
        writer = HuggingFaceStorageWriter(str(here / "dense"), save_distributed=True)
        with _quietly():
            state_dict_saver.save(
                part.dense, storage_writer=writer, process_group=ranks.group if ranks else None, no_dist=ranks is None
            )
        (here / f"tables-{rank:05d}-of-{size:05d}.safetensors").write_bytes(save(part.share))
        if rank == 0:
            (here / STATE).write_text(json.dumps(part.described, indent=1, sort_keys=True))


@dataclass(frozen=True)
class Read:
    """What lies in a folder, as far as it is this rank's: the whole of `dense`, of `shares` its own part by collection."""

    folder: UPath
    dense: Tensors
    shares: dict[str, Tensors]
    described: dict[str, Any]


def read_parts(folder: UPath, ranks: Ranks | None = None) -> Read:
    """Read what was written by any number of ranks. Asks nothing of other ranks.

    Raises `OSError`, `ValueError` and safetensors' own errors where something is damaged or missing.
    """
    described = json.loads((folder / STATE).read_text())
    if described["format"] != FORMAT:
        raise ValueError(f"{folder}: format {described['format']}, this code reads {FORMAT}")
    independent = described["recipe"]["embeddings"] == "independent"
    return Read(folder, _read_dense(folder / "dense"), _read_shares(folder, ranks, independent), described)


def state_of(read: Read, recipe: Recipe, schema: FeatureSchema, ranks: Ranks | None = None) -> TrainState:
    """The state that was read, or this rank's share of it; every rank must call it. Errors are those of `load_snapshot`."""
    state = state_like(read.described, read.folder, recipe, schema, ranks)
    weights, slots = (
        {name.removeprefix(kind): tensor for name, tensor in read.dense.items() if name.startswith(kind)} for kind in _KINDS
    )
    for path, columns_of in read.shares.items():
        for kind, tensors in zip(
            (weights, slots), state_dict.split_optimizer_state(columns_of, _tables(columns_of)), strict=True
        ):
            kind |= {f"{TABLES}{path}/{name}": tensor for name, tensor in tensors.items()}
    put_back(state, weights, slots, read.folder)
    return state


def _read_dense(folder: UPath) -> Tensors:
    with _local(folder, reading=True) as here:
        reader = HuggingFaceStorageReader(str(here))
        held = reader.read_metadata().state_dict_metadata
        tensors: dict[str, Any] = {
            name: torch.empty(about.size, dtype=about.properties.dtype)
            for name, about in held.items()
            if isinstance(about, TensorStorageMetadata)
        }
        with _quietly():
            state_dict_loader.load(tensors, storage_reader=reader, no_dist=True)
    return tensors


def _read_shares(folder: UPath, ranks: Ranks | None, independent: bool) -> dict[str, Tensors]:
    """By collection the whole of its columns, or this rank's: taken file by file, so that no rank holds them all.

    Where each rank learned them for itself: what it had, or to one process what comes of all.
    """
    files = sorted(folder.glob("tables-*-of-*.safetensors"), key=lambda path: path.name)
    if not files or len(files) != int(files[0].stem.rpartition("-")[2]):
        raise ValueError(f"{folder}: of the tables' files only {[file.name for file in files]} are there")
    if independent and ranks:
        return _by_collection(load(files[ranks.rank].read_bytes()))
    parts: dict[str, list[Tensors]] = {}
    for file in files:
        for path, part in _by_collection(load(file.read_bytes())).items():
            parts.setdefault(path, []).append(state_dict.shard(part, _tables(part), ranks.rank, ranks.size) if ranks else part)
    together = merge if independent else state_dict.merge_shards
    return {path: together(of_files, _tables(of_files[0])) for path, of_files in parts.items()}


def _by_collection(tensors: Tensors) -> dict[str, Tensors]:
    found: dict[str, Tensors] = {}
    for name, tensor in tensors.items():
        path, _, name = name.partition("/")
        found.setdefault(path, {})[name] = tensor
    return found


def _tables(columns_of: Tensors) -> list[str]:
    """In their own order, which numbers them: the state says it."""
    return json.loads(bytes(columns_of["about"].tolist()))["tables"]


@contextmanager
def _quietly() -> Iterator[None]:
    """Without a warning that one process is one."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


@contextmanager
def _local(folder: UPath, reading: bool = False) -> Iterator[Path]:
    """A folder on this machine in the place of one that may be elsewhere: with its files, or for files that go there."""
    if folder.protocol in ("", "file"):
        yield Path(folder.path)
        return
    with tempfile.TemporaryDirectory() as here:
        if reading:
            folder.fs.get(f"{folder.path}/", f"{here}/", recursive=True)
        yield Path(here)
        if not reading:
            folder.fs.put(f"{here}/", f"{folder.path}/", recursive=True)
