"""A node's cache of shards. mosaicml-streaming fetches them from the lake, decompresses, shares and evicts them.

StreamingDataset manages only the files. `ml.datasets.reader` decides which rank reads which rows, and in which order, because
StreamingDataset's partition (0.13, `partition/orig.py`) repeats samples if the number of ranks does not divide them, and
repeats other samples for another number of ranks. An epoch would not be exact, and could not be resumed with other ranks. Its
samples are also blocks here, not rows.

StreamingDataset holds shared memory, with two file descriptors for each block, until its process exits, and leaves small lock
files in the temporary folder. A rank that is alone on its node deletes both when its cache is garbage-collected, because a
process may open many caches in turn. Ranks that share a node keep them: if one rank deleted its own first, ranks could choose
different names for the next cache. If all ranks are killed at once, the memory remains until the machine restarts.
StreamingDataset's clean-up function is not called here: it only checks whether another process has the memory open, and would
also remove the memory of a job that is just starting.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import re
import shutil
import tempfile
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path

import torch.distributed as dist
from filelock import FileLock, Timeout
from upath import UPath

import ml.datasets.torchvision_ops  # noqa: F401  # streaming fails without
from ml.datasets.cache_config import CacheConfig
from ml.datasets.shards import Columns, CorruptShard, Shard, digest, read_blocks
from ml.datasets.splits import HASH
from ml.stages import MDS_DATASETS

# isort: split
from streaming import Stream, StreamingDataset
from streaming.base.constant import BARRIER_FILELOCK, CACHE_FILELOCK
from streaming.base.dataset import _ShardState
from streaming.base.shared import SharedArray, SharedBarrier, SharedMemory, SharedScalar
from streaming.base.shared.prefix import _get_path
from streaming.base.util import bytes_to_int, retry
from streaming.base.world import World

_SECONDS_ALONE = 60.0
_ATTEMPTS = 4  # to read a shard that other ranks may evict, or that a crash has left incomplete
_OWN = "evergreen-shards"  # inside the user's folder; no other files there are touched
_MARK = "made-by-evergreen"  # a file in each folder of the cache; folders without it are not removed
_THREADS = 2  # that prefetch


class BusyCache(TimeoutError):
    """Another process, which is not a rank of this job, uses the same cache folder."""


@contextmanager
def _alone_on_machine(leader: bool) -> Iterator[None]:
    """Lets one job at a time start a StreamingDataset on this machine.

    StreamingDataset first searches for unused names in shared memory and creates them later, so two jobs that start at the same
    time may find the same names. The lock has a timeout, so that jobs on several nodes cannot wait for each other indefinitely.
    """
    with ExitStack() as held:
        if leader:
            lock = FileLock(Path(tempfile.gettempdir()) / f"evergreen-streaming-{os.getuid()}.lock")
            with suppress(Timeout):
                held.enter_context(lock.acquire(timeout=_SECONDS_ALONE))
        if dist.is_initialized():
            dist.barrier()
        yield


class ShardCache:
    """Caches shards of a lake (at any fsspec URL) as uncompressed files in `<folder>/evergreen-shards` of this node.

    If the limit is reached, the least recently read shard is evicted. Folders of other days that earlier readers left, and no
    process has open, are deleted. Files that a killed run left are used again. Every file is checked against the hash in the
    lake's index when it is read.

    All ranks create a cache at the same time, with torchrun's variables (`RANK`, `WORLD_SIZE`, `LOCAL_RANK`,
    `LOCAL_WORLD_SIZE`) in the environment. The ranks of a node share its files through StreamingDataset.

    Args:
        shards: The shards to read, grouped by day and split.
        config: Folder and size limit. The limit must hold the indexes and four times the largest shard, compressed and
            uncompressed together.

    Raises:
        BusyCache: Another process uses the folder.
        ValueError: The limit is too low, or the lake and the folder contain one another.

    Example:
        >>> cache = ShardCache(shards, CacheConfig("/scratch/shards", "100gb"))  # doctest: +SKIP
        >>> columns = cache.read(shards[0])  # doctest: +SKIP
    """

    def __init__(self, shards: Sequence[Shard], config: CacheConfig) -> None:
        splits: dict[UPath, list[Shard]] = {}
        for shard in shards:
            splits.setdefault(shard.path.parents[1], []).append(shard)
        root = _own(Path(config.folder), splits)
        room = _room(config.limit, splits)
        places = {source: _place(root, source, held) for source, held in splits.items()}
        world = World.detect()
        if world.is_local_leader:
            self._locks = [_locked(place) for place in places.values()]
            _delete_unused(root)
            for source, held in splits.items():
                _write_index(places[source], held)
        streams = [_LakeStream(source, place) for source, place in places.items()]
        with _alone_on_machine(world.is_local_leader):
            self._dataset = StreamingDataset(streams=streams, cache_limit=config.limit, validate_hash=HASH)
        # StreamingDataset looks for its lock under one attribute name and stores it under another. It would create a new lock
        # at every call, and threads would not exclude each other.
        self._dataset._cache_filelock = FileLock(self._dataset._cache_filelock_path)
        setattr(self._dataset, CACHE_FILELOCK, self._dataset._cache_filelock)
        self._numbers = {shard.path: number for number, shard in enumerate(chain.from_iterable(splits.values()))}
        self._copies = {shard.path: _copy(shard, places[source]) for source, held in splits.items() for shard in held}
        self._room = room / world.ranks_per_node
        self._ahead: dict[UPath, Shard] = {}  # requested, but not opened yet
        self._wanted: deque[Shard] = deque()  # the part of `_ahead` whose download has not started
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="shards")
        weakref.finalize(self, self._threads.shutdown, wait=False, cancel_futures=True)
        if world.ranks_per_node == 1:
            weakref.finalize(self, _release, self._dataset)

    def read(self, shard: Shard) -> Columns:
        """Reads a shard through the cache.

        Args:
            shard: One of the shards of the cache.

        Returns:
            The bytes of each column, as `read_blocks` returns them.

        Raises:
            CorruptShard: The bytes differ from what was written.
            OSError: The lake's file system cannot read the shard.
        """
        faults: list[Exception] = []
        while len(faults) < _ATTEMPTS:
            try:
                self._fetch(shard, blocking=True)
            except CorruptShard as error:  # or a partial download of a crashed run, which has been removed now
                faults.append(error)
                continue
            try:
                return read_blocks(self._copies[shard.path])
            except FileNotFoundError as error:  # another rank evicted it
                faults.append(error)
            except CorruptShard as error:
                faults.append(error)
                self._dataset.evict_shard(self._numbers[shard.path])
        raise faults[-1]

    def prefetch(self, shards: Iterable[Shard], beside: Iterable[Shard]) -> None:
        """Starts to fetch shards that will be read next, as far as the limit allows. Errors are raised by `read`.

        Args:
            shards: Shards that will be read next, in order.
            beside: Shards that are read now. The limit must also hold these, and the shards that were requested earlier.
        """
        now = {shard.path: shard for shard in beside}
        self._ahead = {path: shard for path, shard in self._ahead.items() if path not in now}
        self._wanted = deque(shard for shard in self._wanted.copy() if shard.path not in now)
        room = self._room - sum(map(_most_bytes, [*now.values(), *self._ahead.values()]))
        for shard in shards:
            if shard.path in now or shard.path in self._ahead:
                continue
            room -= _most_bytes(shard)
            if room < 0:
                break
            self._ahead[shard.path] = shard
            self._wanted.append(shard)
        for _ in range(min(_THREADS, len(self._wanted))):
            self._threads.submit(self._fetch_wanted)

    def cancel_prefetch(self) -> None:
        """Cancels requested downloads that have not started."""
        self._ahead.clear()
        self._wanted.clear()

    def _fetch_wanted(self) -> None:
        """Fetches one shard, then queues the next. If all were queued, the interpreter would fetch all before it exits."""
        try:
            self._fetch(self._wanted.popleft(), blocking=False)
        finally:
            if self._wanted:
                self._threads.submit(self._fetch_wanted)

    def _fetch(self, shard: Shard, blocking: bool) -> None:
        number, lock = self._numbers[shard.path], self._dataset._cache_filelock
        try:
            self._dataset.prepare_shard(number, blocking)
        except Exception as error:
            if lock.is_locked:  # by this thread
                lock.release(force=True)
            # Otherwise StreamingDataset keeps the shard marked as being prepared, and readers wait for it indefinitely.
            self._dataset.shards[number].evict()
            self._dataset._shard_states[number] = _ShardState.REMOTE
            if isinstance(error, ValueError) and "Checksum" in str(error):
                way_out = f"rerun {MDS_DATASETS} of {shard.window[0]}"
                raise CorruptShard(f"{shard.path}: the bytes differ from what was written; {way_out}") from error
            raise


def _release(dataset: StreamingDataset) -> None:
    """Deletes the lock files and shared memory of a dataset. No thread reads it: threads hold a reference to the cache."""
    for name in (BARRIER_FILELOCK, CACHE_FILELOCK):
        (Path(tempfile.gettempdir()) / _get_path(dataset._shm_prefix_int, name)).unlink(missing_ok=True)
    for memory in _memories(dataset):
        atexit.unregister(memory.cleanup)
        memory.cleanup()


def _memories(holder: object) -> Iterator[SharedMemory]:
    """Yields the shared memory of a dataset, or of one of the arrays, numbers and barriers that it consists of."""
    for part in vars(holder).values():
        if isinstance(part, SharedMemory):
            yield part
        elif isinstance(part, SharedArray | SharedBarrier | SharedScalar):
            yield from _memories(part)


class _LakeStream(Stream):
    """A split of a day that is fetched through the lake's file system.

    The downloaders of mosaicml-streaming do not support all URLs of fsspec, nor the lake's credentials.
    """

    def __init__(self, source: UPath, place: Path) -> None:
        super().__init__(local=str(place), keep_zip=False)
        self.safe_keep_zip = False  # without a `remote`, Stream assumes that `local` is the original and keeps compressed files
        self._source = source

    def _download_file(self, from_basename: str, to_basename: str | None = None) -> str:
        target = Path(self.local, to_basename or from_basename)
        aside = target.with_name(f"{target.name}.tmp")
        target.parent.mkdir(parents=True, exist_ok=True)
        read = retry(num_attempts=self.download_retry)((self._source / from_basename).read_bytes)
        aside.write_bytes(read())
        aside.rename(target)
        return str(target)


def _own(folder: Path, splits: Iterable[UPath]) -> Path:
    """Returns the folder for shards inside the user's folder."""
    own = folder.resolve() / _OWN
    for root in {Path(split.path).resolve().parents[3] for split in splits if split.protocol in ("", "file")}:
        if own.is_relative_to(root) or root.is_relative_to(folder.resolve()):
            raise ValueError(f"cache (EVERGREEN_CACHE): {folder} and the lake {root} contain one another; use separate folders")
    return own


def _room(limit: str | None, splits: Mapping[UPath, Sequence[Shard]]) -> float:
    """Returns the bytes for shards. StreamingDataset would accept a lower limit, at which a shard may not fit."""
    if limit is None:
        return math.inf
    indexes = sum(len(_index(held)) for held in splits.values())
    largest = max(_most_bytes(shard) for held in splits.values() for shard in held)
    try:
        given = bytes_to_int(limit)
    except ValueError as error:
        raise ValueError(f"cache_limit (EVERGREEN_CACHE_LIMIT): {error}") from error
    if given < indexes + 4 * largest:
        raise ValueError(
            f"cache_limit (EVERGREEN_CACHE_LIMIT): {limit} is too low for this data; expected {indexes + 4 * largest} bytes "
            f"or more: {indexes} for indexes, and four times the largest shard"
        )
    return given - indexes


def _most_bytes(shard: Shard) -> int:
    """Returns the bytes of a shard while it is decompressed: both forms together."""
    zipped = shard.entry["zip_data"]
    return shard.entry["raw_data"]["bytes"] + (zipped["bytes"] if zipped else 0)


def _place(folder: Path, source: UPath, shards: list[Shard]) -> Path:
    """Returns the cache folder of a split of a day. Its name depends on the data, so a rewritten day has another folder."""
    dataset, day, split = source.parts[-3:]
    return folder / dataset / day / f"{split}-{digest(shards)}"


def _copy(shard: Shard, place: Path) -> Shard:
    raw = {**shard.entry, "compression": None, "zip_data": None}
    return replace(shard, path=UPath(place) / shard.entry["raw_data"]["basename"], entry=raw)


def _index(shards: Iterable[Shard]) -> bytes:
    """Returns the index for StreamingDataset: the lake's index without the shards that have no samples."""
    return json.dumps({"version": 2, "shards": [shard.entry for shard in shards]}).encode()


def _write_index(place: Path, shards: list[Shard]) -> None:
    aside = place / "index.json.tmp"
    place.mkdir(parents=True, exist_ok=True)
    (place / _MARK).touch()
    aside.write_bytes(_index(shards))
    aside.rename(place / "index.json")


def _locked(place: Path) -> FileLock:
    """Locks a cache folder until the lock object is deleted or the process ends. Readers of one process may share it."""
    place.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{place}.lock", timeout=0, thread_local=False, is_singleton=True)
    try:
        lock.acquire()
    except Timeout as error:
        raise BusyCache(
            f"{place} is in use by another process; give each job its own folder, and set RANK, WORLD_SIZE, LOCAL_RANK and "
            "LOCAL_WORLD_SIZE for the ranks of one job"
        ) from error
    return lock


def _delete_unused(folder: Path) -> None:
    """Deletes the cache folders of earlier readers that no process has open."""
    for place in [mark.parent for mark in folder.glob(f"*/*/*/{_MARK}")]:
        if re.search(r"-[0-9a-f]{16}$", place.name):
            with suppress(Timeout), FileLock(f"{place}.lock", timeout=0):
                shutil.rmtree(place)
