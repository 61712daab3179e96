"""A node's cache of shards: fetched from the lake, unpacked, shared among ranks and evicted by mosaicml-streaming.

StreamingDataset keeps the files; whose rows they are, and in which order, is `ml.datasets.reader`'s to say. Its own
partition (0.13, `partition/orig.py`) repeats samples where the ranks do not divide them, other ones for another number of
ranks, so no epoch would be exact, and none resumed on other ranks; and it knows of samples, which are blocks, not of rows.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path

from filelock import FileLock, Timeout
from upath import UPath

import ml.datasets.torchvision_ops  # noqa: F401  # streaming fails without
from ml.datasets.layout import HASH, STAGE
from ml.datasets.shards import Columns, CorruptShard, Shard, digest, read_blocks

# isort: split
from streaming import Stream, StreamingDataset
from streaming.base.dataset import _ShardState
from streaming.base.util import retry
from streaming.base.world import World

_ATTEMPTS = 4  # of reading a shard that other ranks evict, or a crash has left in part


class BusyCache(TimeoutError):
    """Another process, not a rank of this job, fills the same folder."""


class ShardCache:
    """Shards of a lake at any fsspec URL, as files in `folder` of this node; raw, so that each is unpacked once.

    limit: bytes the shards may take ("100gb"), at least four times the largest; the one that was not read for longest goes
    first. What the folder holds of other days, and no reader has open, is removed.

    All ranks make one at the same time, with torchrun's variables (`RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `LOCAL_WORLD_SIZE`)
    in the environment: those of a node share its files through StreamingDataset. Files that a killed run left are used
    again; each is checked against the hash in the lake's index whenever it is read.

    Raises `BusyCache`, and `ValueError` where the limit is too low.
    """

    def __init__(self, shards: Sequence[Shard], folder: str | os.PathLike[str], limit: str | None = None) -> None:
        root = Path(folder).absolute()
        splits: dict[UPath, list[Shard]] = {}
        for shard in shards:
            splits.setdefault(shard.path.parents[1], []).append(shard)
        places = {source: _place(root, source, held) for source, held in splits.items()}
        if World.detect().is_local_leader:
            self._locks = [_locked(place) for place in places.values()]
            _forget_others(root)
            for source, held in splits.items():
                _write_index(places[source], held)
        self._dataset = StreamingDataset(
            streams=[_LakeStream(source, place) for source, place in places.items()], cache_limit=limit, validate_hash=HASH
        )
        self._numbers = {shard.path: number for number, shard in enumerate(chain.from_iterable(splits.values()))}
        self._copies = {shard.path: _copy(shard, places[source]) for source, held in splits.items() for shard in held}
        self._ahead = ThreadPoolExecutor(2, thread_name_prefix="shards")

    def read(self, shard: Shard) -> Columns:
        """What `read_blocks` gives, of the shard's copy here. Raises `CorruptShard`, and what the lake's file system does."""
        faults: list[Exception] = []
        while len(faults) < _ATTEMPTS:
            try:
                self._fetch(shard, blocking=True)
            except CorruptShard as error:  # or what a crash left of a download, which is gone now
                faults.append(error)
                continue
            try:
                return read_blocks(self._copies[shard.path])
            except FileNotFoundError as error:  # another rank needed the room
                faults.append(error)
            except CorruptShard as error:
                faults.append(error)
                self._dataset.evict_shard(self._numbers[shard.path])
        raise faults[-1]

    def prefetch(self, shards: Iterable[Shard]) -> None:
        """Begin to fetch shards that are read next. What fails here fails again, and is told, when they are read."""
        for shard in shards:
            self._ahead.submit(self._fetch, shard, blocking=False)

    def _fetch(self, shard: Shard, blocking: bool) -> None:
        number = self._numbers[shard.path]
        try:
            self._dataset.prepare_shard(number, blocking)
        except Exception as error:
            # StreamingDataset would go on saying that the shard is on its way, and whoever wants it would wait for ever.
            self._dataset.shards[number].evict()
            self._dataset._shard_states[number] = _ShardState.REMOTE
            if isinstance(error, ValueError):  # of all it raises, only its comparison of hashes is one
                way_out = f"rerun {STAGE} of {shard.window[0]}"
                raise CorruptShard(f"{shard.path}: its bytes are not those that were written; {way_out}") from error
            raise


class _LakeStream(Stream):
    """A split of a day, fetched through the lake's own file system: streaming's downloaders know neither all URLs that
    fsspec does nor the lake's credentials."""

    def __init__(self, source: UPath, place: Path) -> None:
        super().__init__(local=str(place), keep_zip=False)
        self.safe_keep_zip = False  # it would keep them, as without a `remote` it takes `local` for the original
        self._source = source

    def _download_file(self, from_basename: str, to_basename: str | None = None) -> str:
        target = Path(self.local, to_basename or from_basename)
        aside = target.with_name(f"{target.name}.tmp")
        target.parent.mkdir(parents=True, exist_ok=True)
        read = retry(num_attempts=self.download_retry)((self._source / from_basename).read_bytes)
        aside.write_bytes(read())
        aside.rename(target)
        return str(target)


def _place(folder: Path, source: UPath, shards: list[Shard]) -> Path:
    """Where a split of a day lies in the cache; elsewhere when the day is written again."""
    dataset, day, split = source.parts[-3:]
    return folder / dataset / day / f"{split}-{digest(shards)}"


def _copy(shard: Shard, place: Path) -> Shard:
    raw = {**shard.entry, "compression": None, "zip_data": None}
    return replace(shard, path=UPath(place) / shard.entry["raw_data"]["basename"], entry=raw)


def _write_index(place: Path, shards: list[Shard]) -> None:
    """What StreamingDataset reads first: the lake's index, less the shards without a sample."""
    aside = place / "index.json.tmp"
    place.mkdir(parents=True, exist_ok=True)
    aside.write_text(json.dumps({"version": 2, "shards": [shard.entry for shard in shards]}))
    aside.rename(place / "index.json")


def _locked(place: Path) -> FileLock:
    """Held as long as the object lives; readers of one process may share a place. A killed process lets go of it."""
    place.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{place}.lock", timeout=0, thread_local=False, is_singleton=True)
    try:
        lock.acquire()
    except Timeout as error:
        raise BusyCache(
            f"{place} is filled by another process; give each job a folder of its own, and the ranks of one job RANK, "
            "WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE"
        ) from error
    return lock


def _forget_others(folder: Path) -> None:
    """Remove what nobody has open."""
    for index in folder.glob("*/*/*/index.json"):
        with suppress(Timeout), FileLock(f"{index.parent}.lock", timeout=0):
            shutil.rmtree(index.parent)
