"""Reading MDS shards of blocks: an index in, the bytes of each column out. Knows the file format, and no order.

An MDS shard is `uint32 samples`, `uint32 offsets[samples + 1]`, the configuration, then the samples; a sample is the
`uint32` size of each column of no fixed size, then the columns. A column here is an ndarray of any shape: one byte
(`ndim << 2 | code`), `ndim` sizes of `1 << code` bytes, values. A shard is read once and whole, its blocks are views:
StreamingDataset opens the file and decodes for every sample, beside two threads that hold the interpreter's lock.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash
import zstandard
from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.datasets.rows import columns_of
from ml.datasets.splits import HASH
from ml.lake import Lake
from ml.schema import FeatureSchema
from ml.stages import MDS_DATASETS

Bytes = npt.NDArray[np.uint8]
Columns = dict[str, list[Bytes]]  # of a shard: by name, one array per block


class CorruptShard(ValueError):
    """A shard is not as its index says; the message names the file and the way out."""


@dataclass(frozen=True)
class Shard:
    """One file of blocks: where it lies, what its index entry says, and which rows of the epoch it holds."""

    path: UPath
    entry: dict[str, Any]
    window: tuple[str, int]  # day, window of the day
    blocks: int
    rows: int


def shards_of(lake: Lake, spec: DatasetSpec, day: str, split: str) -> list[Shard]:
    """Shards of a day's split, in the order of its index. Raises `MissingPartition`, `StalePartition` or `CorruptShard`."""
    folder = lake.require(MDS_DATASETS, spec.name, day, fingerprint=spec.fingerprint) / split
    manifest = lake.manifest(MDS_DATASETS, spec.name, day)
    if not manifest["splits"][split]["rows"]:
        return []
    columns = columns_of(FeatureSchema.of(spec))
    left = list(manifest["splits"][split]["windows"])
    shards = []
    for entry in json.loads((folder / "index.json").read_text())["shards"]:
        if not entry["samples"]:  # a block larger than the limit of a shard left the shard before it empty
            continue
        basename = (entry["zip_data"] or entry["raw_data"])["basename"]
        if dict(zip(entry["column_names"], entry["column_encodings"], strict=True)) != columns:
            raise CorruptShard(f"{folder / basename}: columns are not those of {spec.name}; rerun {MDS_DATASETS} of {day}")
        window = int(basename.split("/")[0])
        rows = min(entry["samples"] * manifest["block_rows"], left[window])
        left[window] -= rows
        shards.append(Shard(folder / basename, entry, (day, window), entry["samples"], rows))
    if any(left):
        raise CorruptShard(
            f"{folder / 'index.json'}: lists fewer rows than {folder.parent / 'manifest.json'}; rerun {MDS_DATASETS} of {day}"
        )
    return shards


def digest(shards: Iterable[Shard]) -> str:
    """Hash of what the shards hold, by the hashes of their bytes; the same data has the same digest."""
    entries = [(s.window, (s.entry["zip_data"] or s.entry["raw_data"])["hashes"]) for s in shards]
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()[:16]


def read_blocks(shard: Shard) -> Columns:
    """The bytes of each column, one view per block. Raises `CorruptShard` unless the file is what its index says."""
    data = _read(shard)
    samples = shard.entry["samples"]
    offsets = data[4 : 8 + 4 * samples].view(np.uint32).tolist()
    names, sizes = shard.entry["column_names"], shard.entry["column_sizes"]
    columns: Columns = {name: [] for name in names}
    variable = 4 * sizes.count(None)
    for begin in offsets[:-1]:
        at = begin + variable
        for name, size in zip(names, data[begin:at].copy().view(np.uint32).tolist(), strict=True):
            head = int(data[at])
            skip = 1 + (head >> 2) * (1 << (head & 3))
            columns[name].append(data[at + skip : at + size])
            at += size
    return columns


def _read(shard: Shard) -> Bytes:
    """The shard's bytes, as they were before compression."""
    zipped = shard.entry["zip_data"]
    info = zipped or shard.entry["raw_data"]
    way_out = f"rerun {MDS_DATASETS} of {shard.window[0]}"
    local = shard.path.protocol in ("", "file") and shard.path.stat().st_size > 0  # an empty file can not be mapped
    found = np.memmap(shard.path.path, np.uint8, "r") if local else np.frombuffer(shard.path.read_bytes(), np.uint8)
    if found.size != info["bytes"]:
        raise CorruptShard(f"{shard.path}: {found.size} bytes, {info['bytes']} expected; {way_out}")
    if xxhash.xxh3_64_hexdigest(found.data) != info["hashes"][HASH]:
        raise CorruptShard(f"{shard.path}: its bytes are not those that were written ({HASH} differs); {way_out}")
    if not zipped:
        return found
    return np.frombuffer(zstandard.decompress(found.data, shard.entry["raw_data"]["bytes"]), np.uint8)


def read_columns(
    shards: Iterable[Shard], scratch: dict[str, Bytes], read: Callable[[Shard], Columns] = read_blocks
) -> dict[str, Bytes]:
    """The bytes of each column of several shards, one after the other. read: opens one of them.

    They lie in `scratch`, which grows as needed and is used again by the next call: fresh pages for every block would
    cost more than filling them.
    """
    parts: Columns = {}
    for shard in shards:
        for name, blocks in read(shard).items():
            parts.setdefault(name, []).extend(blocks)
    filled = {}
    for name, blocks in parts.items():
        total = sum(block.size for block in blocks)
        if name not in scratch or scratch[name].size < total:
            scratch[name] = np.empty(math.ceil(total * 1.25 / 8) * 8, np.uint8)
        filled[name] = np.concatenate(blocks, out=scratch[name][:total])
    return filled
