"""Reads MDS shards of blocks: the index of a split, and the bytes of each column. The order of rows is defined elsewhere.

An MDS shard consists of `uint32 samples`, `uint32 offsets[samples + 1]`, the configuration and the samples. A sample consists
of the `uint32` size of each column without a fixed size, followed by the columns. A column here is an ndarray of any shape: one
byte (`ndim << 2 | code`), `ndim` sizes of `1 << code` bytes each, and the values. A shard is read once, as a whole, and its
blocks are views of its bytes. StreamingDataset would open the file and decode it for every sample, while two of its threads
hold the interpreter's lock.
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
from ml.datasets.rows import mds_columns
from ml.datasets.splits import HASH
from ml.lake import Lake
from ml.schema import FeatureSchema
from ml.stages import MDS_DATASETS

Bytes = npt.NDArray[np.uint8]
Columns = dict[str, list[Bytes]]  # columns of a shard by name, each with one array per block


class CorruptShard(ValueError):
    """A shard does not match its index. The message names the file and how to repair it."""


@dataclass(frozen=True)
class Shard:
    """One file of blocks.

    Attributes:
        path: The file.
        entry: Its entry in the index of the split.
        window: The day, and the number of the window in the day.
        blocks: Number of blocks.
        rows: Number of rows.
    """

    path: UPath
    entry: dict[str, Any]
    window: tuple[str, int]
    blocks: int
    rows: int


def shards_of(lake: Lake, spec: DatasetSpec, day: str, split: str) -> list[Shard]:
    """Lists the shards of a split of a day.

    Args:
        lake: Where the data is stored.
        spec: The dataset.
        day: The partition key.
        split: "train", "validation" or "test".

    Returns:
        The shards, in the order of the index.

    Raises:
        MissingPartition: The day's data is not in the lake.
        StalePartition: It was made under another version of the catalog entry.
        CorruptShard: The index does not match the dataset or the manifest.
    """
    folder = lake.require(MDS_DATASETS, spec.name, day, fingerprint=spec.fingerprint) / split
    manifest = lake.manifest(MDS_DATASETS, spec.name, day)
    if not manifest["splits"][split]["rows"]:
        return []
    columns = mds_columns(FeatureSchema.of(spec))
    left = list(manifest["splits"][split]["windows"])
    shards = []
    for entry in json.loads((folder / "index.json").read_text())["shards"]:
        if not entry["samples"]:  # MDSWriter writes an empty shard before a block that exceeds the size limit
            continue
        basename = (entry["zip_data"] or entry["raw_data"])["basename"]
        if dict(zip(entry["column_names"], entry["column_encodings"], strict=True)) != columns:
            raise CorruptShard(f"{folder / basename}: columns do not match {spec.name}; rerun {MDS_DATASETS} of {day}")
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
    """Returns a hash of the shards' windows and of the hashes of their bytes. Equal data has equal digests."""
    entries = [(s.window, (s.entry["zip_data"] or s.entry["raw_data"])["hashes"]) for s in shards]
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()[:16]


def read_blocks(shard: Shard) -> Columns:
    """Reads a shard.

    Args:
        shard: The shard.

    Returns:
        The bytes of each column, uint8, one view per block.

    Raises:
        CorruptShard: The size or the hash of the file differs from the index.
    """
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
    """Returns the decompressed bytes of a shard."""
    zipped = shard.entry["zip_data"]
    info = zipped or shard.entry["raw_data"]
    way_out = f"rerun {MDS_DATASETS} of {shard.window[0]}"
    local = shard.path.protocol in ("", "file") and shard.path.stat().st_size > 0  # an empty file cannot be mapped
    found = np.memmap(shard.path.path, np.uint8, "r") if local else np.frombuffer(shard.path.read_bytes(), np.uint8)
    if found.size != info["bytes"]:
        raise CorruptShard(f"{shard.path}: expected {info['bytes']} bytes, found {found.size}; {way_out}")
    if xxhash.xxh3_64_hexdigest(found.data) != info["hashes"][HASH]:
        raise CorruptShard(f"{shard.path}: the bytes differ from what was written ({HASH}); {way_out}")
    if not zipped:
        return found
    return np.frombuffer(zstandard.decompress(found.data, shard.entry["raw_data"]["bytes"]), np.uint8)


def read_columns(
    shards: Iterable[Shard], scratch: dict[str, Bytes], read: Callable[[Shard], Columns] = read_blocks
) -> dict[str, Bytes]:
    """Reads several shards and concatenates their columns.

    Args:
        shards: The shards, in order.
        scratch: Buffers that hold the result. They grow as needed and are reused by the next call, which overwrites the result
            of this one. Allocating new pages for every shuffle block would take longer than filling them.
        read: Reads one shard.

    Returns:
        The bytes of each column, uint8.
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
