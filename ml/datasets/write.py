"""Writes a day's training data: reads the feature table and writes the MDS blocks of each split (`ml.datasets.splits`).

A task consists of consecutive windows. It reads its rows of the feature table with Arrow and writes each window to a folder of
its own, so the bytes do not depend on the number and the order of the tasks. One index per split then lists all shards.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.compute.runner import Runner
from ml.datasets.arguments import check_positive
from ml.datasets.feature_table import Part, out_of_order, parts_of, windows_of
from ml.datasets.rows import Rows, mds_columns
from ml.datasets.splits import HASH, SPLITS, hash_positions, split_of
from ml.hashing import derive_seed
from ml.lake import Lake
from ml.schema import FeatureSchema
from ml.stages import CLEANED_FEATURES, MDS_DATASETS


@dataclass(frozen=True)
class WrittenDay:
    """Statistics of a written day.

    Attributes:
        rows: Number of rows of each split.
        blocks: Number of blocks of each split.
        bytes: Size of all shards on disk.
        seconds: Wall time.
    """

    rows: dict[str, int]
    blocks: dict[str, int]
    bytes: int
    seconds: float


@dataclass(frozen=True)
class _Day:
    """Settings that all tasks of a day share. `seed` is derived for the day."""

    spec: DatasetSpec
    parts: tuple[Part, ...]
    staging: UPath
    rows: int
    block_rows: int
    window_rows: int
    compression: str | None
    size_limit: int
    seed: int


@dataclass(frozen=True)
class _Task:
    day: _Day
    begin: int  # the task's rows are [begin, end) of the day; begin is the first row of a window
    end: int


@dataclass(frozen=True)
class _Window:
    """A written window: number of rows and index entries of each split, first and last event time."""

    rows: list[int]
    shards: list[list[dict[str, Any]]]
    first: int
    last: int


def write_day(
    spec: DatasetSpec,
    day: str,
    lake: Lake,
    runner: Runner,
    *,
    block_rows: int = 1024,
    window_blocks: int = 64,
    compression: str | None = "zstd",
    size_limit: int = 1 << 26,
    seed: int = 0,
    task_windows: int = 4,
) -> WrittenDay:
    """Writes a day's training data into the lake: MDS shards and `<split>/index.json`. An empty split has no folder.

    Equal features and arguments give equal bytes with every runner. A task holds one window in memory at a time.

    Args:
        spec: The dataset.
        day: The partition key.
        lake: Where the features are stored and the data is written.
        runner: Runs the tasks.
        block_rows: Rows of a block, which is one MDS sample.
        window_blocks: Blocks of a window. The rows of a window are permuted together.
        compression: "zstd", "zstd:<level>", or None for no compression.
        size_limit: Maximum size of a shard in bytes before compression.
        seed: Seed of the permutation and of a split by hash.
        task_windows: Windows of a task.

    Returns:
        Statistics of the day.

    Raises:
        MissingPartition: The day's features are not in the lake.
        StalePartition: They were made under another version of the catalog entry.
        ValueError: An argument is out of range, the features have another schema, or they are not in time order.
    """
    began = time.perf_counter()
    check_positive(block_rows=block_rows, window_blocks=window_blocks, size_limit=size_limit, task_windows=task_windows)
    if compression is not None and compression.split(":")[0] != "zstd":
        raise ValueError(f"compression: expected 'zstd', 'zstd:<level>' or None, found {compression!r}")
    parts = parts_of(lake, spec, day)
    made_from = lake.lineage(spec.name, [(CLEANED_FEATURES, day)])
    rows = sum(part.rows for part in parts)
    with lake.write(MDS_DATASETS, spec.name, day) as staging:
        job = _Day(
            spec=spec,
            parts=parts,
            staging=staging,
            rows=rows,
            block_rows=block_rows,
            window_rows=block_rows * window_blocks,
            compression=compression,
            size_limit=size_limit,
            seed=derive_seed(seed, spec.name, day),
        )
        stride = job.window_rows * task_windows
        tasks = [_Task(job, begin, min(begin + stride, rows)) for begin in range(0, rows, stride)]
        windows = [window for written in runner.map(_write_windows, tasks) for window in written]
        for number, (one, following) in enumerate(pairwise(windows), 1):
            if following.first < one.last:
                raise out_of_order(spec, day, number * job.window_rows)
        manifest: dict[str, Any] = {
            "rows": rows,
            "fingerprint": spec.fingerprint,
            "block_rows": block_rows,
            "window_blocks": window_blocks,
            "compression": compression,
            "size_limit": size_limit,
            "seed": seed,
            "splits": {split: _write_index(staging / split, windows, s) for s, split in enumerate(SPLITS)},
        } | made_from
        lake.write_manifest(staging, manifest)
    splits: dict[str, dict[str, Any]] = manifest["splits"]
    return WrittenDay(
        rows={name: split["rows"] for name, split in splits.items()},
        blocks={name: split["blocks"] for name, split in splits.items()},
        bytes=sum(split["bytes"] for split in splits.values()),
        seconds=time.perf_counter() - began,
    )


def _write_windows(task: _Task) -> list[_Window]:
    windows = windows_of(task.day.spec, task.day.parts, task.begin, task.end, task.day.window_rows)
    return [_write_window(task.day, begin, table) for begin, table in windows]


def _write_window(day: _Day, begin: int, table: pa.Table) -> _Window:
    rows = Rows.from_table(table, FeatureSchema.of(day.spec), begin)
    for i in np.flatnonzero(np.diff(rows.event_time) < 0):
        raise out_of_order(day.spec, day.staging.name, begin + int(i) + 1)
    code = split_of(rows.position, day.rows, day.spec.splits, derive_seed(day.seed, "split"))
    key = hash_positions(derive_seed(day.seed, "order"), rows.position)
    counts, shards = [], []
    for s, split in enumerate(SPLITS):
        own = np.flatnonzero(code == s)
        mixed = rows.take(own[np.argsort(key[own])])
        counts.append(own.size)
        shards.append(_write_blocks(day, f"{split}/{begin // day.window_rows:05d}", mixed) if own.size else [])
    return _Window(counts, shards, int(rows.event_time[0]), int(rows.event_time[-1]))


def _write_blocks(day: _Day, folder: str, rows: Rows) -> list[dict[str, Any]]:
    """Writes one split's part of a window, and returns the index entries of its shards."""
    import ml.datasets.torchvision_ops  # noqa: F401, I001  # streaming's imports need it
    from streaming import MDSWriter

    with _local(day.staging / folder) as out:
        writer = MDSWriter(
            columns=mds_columns(FeatureSchema.of(day.spec)),
            out=str(out),
            compression=day.compression,
            hashes=[HASH],
            size_limit=day.size_limit,
            exist_ok=True,  # Spark may run a task again, which writes its windows again
        )
        with writer:
            for sample in rows.blocks(day.block_rows):
                writer.write(sample)
        (out / "index.json").unlink()  # the split's index lists these shards
    return writer.shards


@contextmanager
def _local(folder: UPath) -> Iterator[Path]:
    """Yields a local folder whose files are copied to `folder` at the end; yields `folder` itself if it is local."""
    if folder.protocol in ("", "file"):
        yield Path(folder.path)
        return
    aside = Path(tempfile.mkdtemp(prefix="evergreen-mds-"))
    try:
        yield aside
        for path in sorted(aside.iterdir()):
            (folder / path.name).write_bytes(path.read_bytes())
    finally:
        shutil.rmtree(aside)


def _write_index(folder: UPath, windows: list[_Window], split: int) -> dict[str, Any]:
    """Writes the `index.json` of a split, as `streaming.base.util.merge_index` would; returns the manifest's entry."""
    shards = []
    for number, window in enumerate(windows):
        for shard in window.shards[split]:
            files = {key: {**shard[key], "basename": f"{number:05d}/{shard[key]['basename']}"}
                     for key in ("raw_data", "zip_data") if shard[key]}  # fmt: skip
            shards.append({**shard, **files})
    if shards:
        (folder / "index.json").write_text(json.dumps({"version": 2, "shards": shards}, sort_keys=True))
    return {
        "rows": sum(window.rows[split] for window in windows),
        "blocks": sum(shard["samples"] for shard in shards),
        "bytes": sum((shard["zip_data"] or shard["raw_data"])["bytes"] for shard in shards),
        "windows": [window.rows[split] for window in windows],
    }
