"""A node's cache of shards: fetched from the lake, unpacked, shared among ranks and evicted by mosaicml-streaming.

StreamingDataset keeps the files; whose rows they are, and in which order, is `ml.datasets.reader`'s to say. Its own
partition (0.13, `partition/orig.py`) repeats samples where the ranks do not divide them, other ones for another number of
ranks, so no epoch would be exact, and none resumed on other ranks; and it knows of samples, which are blocks, not of rows.

Beside the cache it leaves small lock files in the temporary folder, and where all ranks are killed at once its shared memory,
until the machine starts anew. What it has to clean that up asks only whether somebody else has the memory open, and takes
that of a job that just begins; so nobody calls it here.
"""

from __future__ import annotations

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
from streaming.base.constant import CACHE_FILELOCK
from streaming.base.dataset import _ShardState
from streaming.base.util import bytes_to_int, retry
from streaming.base.world import World

_SECONDS_ALONE = 60.0
_ATTEMPTS = 4  # of reading a shard that other ranks evict, or a crash has left in part
_OWN = "evergreen-shards"  # below the user's folder, in which nothing else is touched
_MARK = "made-by-evergreen"  # in each place of ours; what does not carry it is not removed
_THREADS = 2  # that fetch ahead


class BusyCache(TimeoutError):
    """Another process, not a rank of this job, fills the same folder."""


@contextmanager
def _alone_on_machine(leader: bool) -> Iterator[None]:
    """StreamingDataset's ranks look for names in shared memory that no job has, and take them later: two jobs that begin in the
    same moment may find the same. After a while they begin all the same, lest jobs on several nodes wait for each other."""
    with ExitStack() as held:
        if leader:
            lock = FileLock(Path(tempfile.gettempdir()) / f"evergreen-streaming-{os.getuid()}.lock")
            with suppress(Timeout):
                held.enter_context(lock.acquire(timeout=_SECONDS_ALONE))
        if dist.is_initialized():
            dist.barrier()
        yield


class ShardCache:
    """Shards of a lake at any fsspec URL, as files in `<folder>/evergreen-shards` of this node; raw, so that each is unpacked
    once.

    limit: bytes it may take ("100gb"), at least the indexes' and four times the largest shard's, packed and unpacked; the
    shard that was not read for longest goes first. What readers left there of other days, and none has open, is removed.

    All ranks make one at the same time, with torchrun's variables (`RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `LOCAL_WORLD_SIZE`)
    in the environment: those of a node share its files through StreamingDataset. Files that a killed run left are used
    again; each is checked against the hash in the lake's index whenever it is read.

    Raises `BusyCache`, and `ValueError` where the limit is too low, or lake and folder lie in one another.
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
            _forget_others(root)
            for source, held in splits.items():
                _write_index(places[source], held)
        streams = [_LakeStream(source, place) for source, place in places.items()]
        with _alone_on_machine(world.is_local_leader):
            self._dataset = StreamingDataset(streams=streams, cache_limit=config.limit, validate_hash=HASH)
        # It looks for its lock under one name and keeps it under another, and so makes another lock at every turn, whichever
        # thread holds the last.
        self._dataset._cache_filelock = FileLock(self._dataset._cache_filelock_path)
        setattr(self._dataset, CACHE_FILELOCK, self._dataset._cache_filelock)
        self._numbers = {shard.path: number for number, shard in enumerate(chain.from_iterable(splits.values()))}
        self._copies = {shard.path: _copy(shard, places[source]) for source, held in splits.items() for shard in held}
        self._room = room / world.ranks_per_node
        self._ahead: dict[UPath, Shard] = {}  # asked for, and not opened yet; of these
        self._wanted: deque[Shard] = deque()  # are not yet on their way
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="shards")
        weakref.finalize(self, self._threads.shutdown, wait=False, cancel_futures=True)

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

    def prefetch(self, shards: Iterable[Shard], beside: Iterable[Shard]) -> None:
        """Begin to fetch shards that are read next, as many as the limit holds beside those that are read now, and those asked
        for earlier. What fails here fails again, and is told, when they are read."""
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

    def forget(self) -> None:
        """Fetch nothing ahead that was asked for and is not on its way."""
        self._ahead.clear()
        self._wanted.clear()

    def _fetch_wanted(self) -> None:
        """One of them, then the next: queued all at once, they would all be fetched before the interpreter ends."""
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
            # StreamingDataset would go on saying that the shard is on its way, and whoever wants it would wait for ever.
            self._dataset.shards[number].evict()
            self._dataset._shard_states[number] = _ShardState.REMOTE
            if isinstance(error, ValueError) and "Checksum" in str(error):
                way_out = f"rerun {MDS_DATASETS} of {shard.window[0]}"
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


def _own(folder: Path, splits: Iterable[UPath]) -> Path:
    """Where in the user's folder shards lie."""
    own = folder.resolve() / _OWN
    for root in {Path(split.path).resolve().parents[3] for split in splits if split.protocol in ("", "file")}:
        if own.is_relative_to(root) or root.is_relative_to(folder.resolve()):
            raise ValueError(f"cache (EVERGREEN_CACHE): {folder} and the lake {root} lie in one another; name a folder apart")
    return own


def _room(limit: str | None, splits: Mapping[UPath, Sequence[Shard]]) -> float:
    """Bytes for shards. StreamingDataset asks for less, and then finds no room for a shard when the indexes are in the way."""
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
            f"at least, for indexes of {indexes} and four times the largest shard"
        )
    return given - indexes


def _most_bytes(shard: Shard) -> int:
    """What a shard takes as it is unpacked."""
    zipped = shard.entry["zip_data"]
    return shard.entry["raw_data"]["bytes"] + (zipped["bytes"] if zipped else 0)


def _place(folder: Path, source: UPath, shards: list[Shard]) -> Path:
    """Where a split of a day lies in the cache; elsewhere when the day is written again."""
    dataset, day, split = source.parts[-3:]
    return folder / dataset / day / f"{split}-{digest(shards)}"


def _copy(shard: Shard, place: Path) -> Shard:
    raw = {**shard.entry, "compression": None, "zip_data": None}
    return replace(shard, path=UPath(place) / shard.entry["raw_data"]["basename"], entry=raw)


def _index(shards: Iterable[Shard]) -> bytes:
    """What StreamingDataset reads first: the lake's index, less the shards without a sample."""
    return json.dumps({"version": 2, "shards": [shard.entry for shard in shards]}).encode()


def _write_index(place: Path, shards: list[Shard]) -> None:
    aside = place / "index.json.tmp"
    place.mkdir(parents=True, exist_ok=True)
    (place / _MARK).touch()
    aside.write_bytes(_index(shards))
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
    """Remove what earlier readers made and nobody has open."""
    for place in [mark.parent for mark in folder.glob(f"*/*/*/{_MARK}")]:
        if re.search(r"-[0-9a-f]{16}$", place.name):
            with suppress(Timeout), FileLock(f"{place}.lock", timeout=0):
                shutil.rmtree(place)
