"""Reading training data as batches: which rows, in which order, on which rank, from where on.

The order of an epoch is one sequence of rows, whatever the number of ranks: pools of shards, the rows of each either in
time order or permuted. Which of them are a rank's in global batch g is `ml.datasets.canonical_nodes`: with one lane, the
r-th part of rows [g * G, (g + 1) * G), G = batch_size * world_size. The format of the files is `ml.datasets.shards`.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from ml.catalog.spec import DatasetSpec
from ml.datasets.batch import Batch
from ml.datasets.canonical_nodes import Lanes
from ml.datasets.collate import batch_from_rows
from ml.datasets.rows import Rows
from ml.datasets.shards import Bytes, Shard, digest, pool_bytes, read_blocks, shards_of
from ml.datasets.shuffle_blocks import Pool, by_blocks, by_window, pools_between
from ml.datasets.splits import SPLITS
from ml.hashing import derive_seed
from ml.lake import Lake
from ml.schema import FeatureSchema

if TYPE_CHECKING:
    from ml.datasets.cache import ShardCache

Order = Literal["time", "shuffled"]
Index = npt.NDArray[np.int64]


class BlockReader:
    """Batches of the rows of some days and splits.

    order "time": days in sequence, within a day the exact time order, also where several splits are read or rows went to
    splits by hash. order "shuffled": shards in an order that differs by epoch, then the rows of as many shards as hold
    at least `mix_blocks` blocks permuted together. A reader holds one such pool, or in time order one window, at a time.

    A window's blocks hold rows of all its times, so in time order every rank reads all shards. Shuffled, with `lanes` a
    multiple of the ranks, a rank reads its own share of them (two lanes may meet in one), and holds a pool for each of its
    lanes. cache: a folder of this node through which a remote lake is read, of `cache_limit` at most; it changes no batch
    (`ml.datasets.cache`).

    Every rank gets `len(reader)` batches of `batch_size` rows; the last of an epoch is smaller (rows left over are
    dealt evenly, so a rank may get none of them) or, with `drop_last`, left out. `rows` is the number of rows of one
    epoch over all ranks; each is seen once, by one of them.

    `state_dict()` says how many batches the caller has taken; an iterator made after `load_state_dict(state)` goes on
    from there, also with another world size as long as batch_size * world_size is the same. Later iterators begin at the
    beginning.

    Raises `MissingPartition`, `StalePartition` where the lake holds data of another specification, `CorruptShard` while
    reading, `BusyCache`, and `ValueError` for an argument out of range.

    >>> reader = BlockReader(lake, spec, ["2014-01-01"], batch_size=4096)  # doctest: +SKIP
    >>> for batch in reader:  # doctest: +SKIP
    ...     step(batch)
    """

    def __init__(
        self,
        lake: Lake,
        spec: DatasetSpec,
        days: Sequence[str],
        *,
        splits: Sequence[str] = ("train",),
        batch_size: int,
        order: Order = "time",
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        epochs: int = 1,
        drop_last: bool = False,
        mix_blocks: int = 256,
        lanes: int = 1,
        cache: str | os.PathLike[str] | None = None,
        cache_limit: str | None = None,
    ) -> None:
        _at_least_one(batch_size=batch_size, world_size=world_size, epochs=epochs, mix_blocks=mix_blocks)
        _check_names(days, splits, order)
        if order == "time" and lanes != 1:
            raise ValueError(f"lanes: expected 1 in time order, found {lanes}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank: expected 0 to {world_size - 1}, found {rank}")
        self.schema = FeatureSchema.of(spec)
        self.batch_size, self.rank, self.world_size, self.epochs = batch_size, rank, world_size, epochs
        self.order, self.seed, self.mix_blocks = order, seed, mix_blocks
        wanted = [split for split in SPLITS if split in splits]
        shards = [shard for day in days for split in wanted for shard in shards_of(lake, spec, day, split)]
        self._shards = sorted(shards, key=lambda shard: shard.window)
        self._global = batch_size * world_size
        self.rows = sum(shard.rows for shard in shards)
        self._lanes = Lanes(self.rows, lanes, self._global)
        self._epoch_batches = self.rows // self._global if drop_last else -(-self.rows // self._global)
        self._begin = self._taken = 0
        self._cache = _cache(self._shards, cache, cache_limit) if cache and shards else None
        self._identity: dict[str, Any] = {
            "order": order,
            "seed": seed,
            "mix_blocks": mix_blocks,
            "lanes": lanes,
            "global_batch": self._global,
            "drop_last": drop_last,
            "data": digest(self._shards),
        }

    def __len__(self) -> int:
        """Batches of all epochs."""
        return self.epochs * self._epoch_batches

    def __iter__(self) -> Iterator[Batch]:
        begin, self._begin = self._begin, 0
        self._taken = begin
        return self._batches(begin)

    def state_dict(self) -> dict[str, Any]:
        """Where the latest iterator's caller is: plain values, fit for JSON."""
        return {**self._identity, "batches": self._taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next iterator go on from `state`. Raises `ValueError` where it is of other data or another order."""
        differ = {key: (state.get(key), own) for key, own in self._identity.items() if state.get(key) != own}
        if differ:
            faults = ", ".join(f"{key}: {theirs!r} in the state, {own!r} here" for key, (theirs, own) in differ.items())
            raise ValueError(f"the state is of another reading and can not be resumed here: {faults}")
        batches = state.get("batches")
        if not isinstance(batches, int) or not 0 <= batches <= len(self):
            raise ValueError(f"batches: expected 0 to {len(self)} (all of {self.epochs} epochs), found {batches!r}")
        self._begin = self._taken = batches

    def _batches(self, begin: int) -> Iterator[Batch]:
        for epoch in range(self.epochs):
            first = max(begin - epoch * self._epoch_batches, 0)
            if first >= self._epoch_batches:
                continue
            for number, rows in enumerate(self._epoch(epoch, first), epoch * self._epoch_batches + first + 1):
                self._taken = number
                yield batch_from_rows(rows, self.schema)

    def _epoch(self, epoch: int, first: int) -> Iterator[Rows]:
        """This rank's part of each global batch of an epoch, from the `first` on."""
        lanes: dict[int, _Lane] = {}
        try:
            for number in range(first, self._epoch_batches):
                parts: list[Rows] = []
                for lane, begin, end in self._lanes.share(number, self.rank, self.world_size):
                    if lane not in lanes:
                        lanes[lane] = _Lane(self._pools(epoch, lane), partial(self._open, epoch, lane))
                    parts += lanes[lane].take(begin, end)
                yield parts[0] if len(parts) == 1 else Rows.concatenate(parts)
        finally:
            if self._cache:
                self._cache.forget()

    def _pools(self, epoch: int, lane: int) -> list[Pool]:
        begin, end = self._lanes.end(lane - 1), self._lanes.end(lane)
        if self.order == "time":
            return pools_between(begin, end, self._shards, by_window)
        order = np.random.default_rng(derive_seed(self.seed, "shards", epoch)).permutation(len(self._shards))
        return pools_between(begin, end, [self._shards[i] for i in order], partial(by_blocks, blocks=self.mix_blocks))

    def _open(self, epoch: int, lane: int, pools: Sequence[Pool], scratch: dict[str, Bytes]) -> tuple[Rows, Index]:
        """Of the first of some pools, all rows of its shards, and which are its own, in their order. The others are next."""
        pool = pools[0]
        if self._cache:
            self._cache.prefetch((shard for pool in pools[1:] for shard in pool.shards), beside=pool.shards)
        read = self._cache.read if self._cache else read_blocks
        rows = Rows.from_bytes(pool_bytes(pool.shards, scratch, read), self.schema)
        if self.order == "time":
            return rows, np.argsort(rows.position)
        seed = derive_seed(self.seed, "rows", epoch, pool.number + lane * len(self._shards))
        return rows, pool.skip + np.random.default_rng(seed).permutation(pool.end - pool.begin)


class _Lane:
    """One lane of an epoch as it is read: holds the rows of the pool it is in, and their order."""

    def __init__(self, pools: Sequence[Pool], open_first: Callable[..., tuple[Rows, Index]]) -> None:
        self._pools, self._open = pools, open_first
        self._ends = [pool.end for pool in pools]
        self._number, self._rows, self._order = -1, None, np.empty(0, np.int64)
        self._scratch: dict[str, Bytes] = {}

    def take(self, begin: int, end: int) -> list[Rows]:
        """Rows of the epoch, in parts of one pool each; one part at least, which may be empty."""
        parts: list[Rows] = []
        while begin < end or not parts:
            number = min(bisect_right(self._ends, begin), len(self._pools) - 1)
            if self._rows is None or (number != self._number and begin < end):
                self._number = number
                self._rows, self._order = self._open(self._pools[number : number + 2], self._scratch)
            start = self._pools[number].begin
            parts.append(self._rows.take(self._order[begin - start : end - start]))
            begin = min(end, self._ends[number])
        return parts


def _cache(shards: Sequence[Shard], folder: str | os.PathLike[str], limit: str | None) -> ShardCache:
    from ml.datasets.cache import ShardCache  # which takes seconds to import

    return ShardCache(shards, folder, limit)


def _at_least_one(**numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"{name}: expected at least 1, found {value}")


def _check_names(days: Sequence[str], splits: Sequence[str], order: str) -> None:
    if isinstance(days, str) or not days or list(days) != sorted(set(days)):
        raise ValueError(f"days: expected one or more different days in ascending order, found {days!r}")
    if isinstance(splits, str) or not splits or set(splits) - set(SPLITS) or len(set(splits)) != len(splits):
        raise ValueError(f"splits: expected some of {SPLITS}, found {splits!r}")
    if order not in get_args(Order):
        raise ValueError(f"order: expected one of {get_args(Order)}, found {order!r}")
