"""A training state as its ranks hold it, in a folder that each of them writes a part of, and that any other number may read.

    dense/*.safetensors                       all but the tables that are divided by id: `torch.distributed.checkpoint`, which
                                              shares out among the ranks what all of them have
    tables-00000-of-00002.safetensors         a rank's share of those tables, as `ml.embeddings.columns` divides them
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

from ml.embeddings import columns
from ml.embeddings.replicas import merge
from ml.features.schema import FeatureSchema
from ml.recipes.recipe import Recipe
from ml.training.ranks import Ranks
from ml.training.snapshot import STATE, TABLES, SnapshotMismatch, Tensors, described, put_back, slots_of, state_like, weights_of
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
    divided = {path: bags for path, bags in state.bags.items() if bags.divided_by_id}
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


def read_parts(folder: UPath, recipe: Recipe, schema: FeatureSchema, ranks: Ranks | None = None) -> TrainState:
    """The state whose parts lie in `folder`, or this rank's share of it. Arguments and errors are those of `load_snapshot`."""
    state = state_like(json.loads((folder / STATE).read_text()), folder, recipe, schema, ranks)
    tensors = _read_dense(folder / "dense") | _read_share(folder, state, ranks)
    weights, slots = (
        {name.removeprefix(kind): tensor for name, tensor in tensors.items() if name.startswith(kind)} for kind in _KINDS
    )
    put_back(state, weights, slots, folder)
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


def _read_share(folder: UPath, state: TrainState, ranks: Ranks | None) -> Tensors:
    """The whole of the tables divided by id, or this rank's share: taken file by file, so that no rank holds them all.

    Where each rank learned them for itself: what it had, or, by another number of ranks, what comes of all.
    """
    files = sorted(folder.glob("tables-*-of-*.safetensors"), key=lambda path: path.name)
    if not files or len(files) != int(files[0].stem.rpartition("-")[2]):
        raise SnapshotMismatch(f"{folder}: of the tables' files only {[file.name for file in files]} are there")
    divided = {path: bags for path, bags in state.bags.items() if bags.divided_by_id}
    tables = {path: [config.name for config in bags.embedding_bag_configs()] for path, bags in divided.items()}
    parts: dict[str, list[Tensors]] = {path: [] for path in divided}
    independent = state.recipe.embeddings == "independent"
    if independent and ranks and len(files) == ranks.size:
        files = files[ranks.rank :][:1]
    for file in files:
        tensors = load(file.read_bytes())
        for path in divided:
            part = {name.removeprefix(f"{path}/"): t for name, t in tensors.items() if name.startswith(f"{path}/")}
            parts[path].append(
                columns.divide(part, tables[path], ranks.rank, ranks.size) if ranks and not independent else part
            )
    found: Tensors = {}
    for path in divided:
        whole = merge(parts[path], tables[path]) if independent else columns.unite(parts[path], tables[path])
        both = columns.apart(whole, tables[path])
        for kind, tensors in zip(_KINDS, both, strict=True):
            found |= {f"{kind}{TABLES}{path}/{name}": tensor for name, tensor in tensors.items()}
    return found


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
