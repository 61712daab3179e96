"""Reads training data as batches, in a given order, from a given batch on, and on one of several ranks.

The order of an epoch is one sequence of rows that does not depend on the number of ranks. The sequence consists of shuffle
blocks, and the rows of a block are either in time order or permuted. `ml.datasets.canonical_nodes` defines which rows a rank
reads in a global batch. With one canonical node, rank r reads the r-th part of rows [g * G, (g + 1) * G) in global batch g,
where G = batch_size * world_size. The file format is in `ml.datasets.shards`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from ml.catalog.spec import DatasetSpec
from ml.datasets.arguments import check_positive
from ml.datasets.batch import Batch
from ml.datasets.cache_config import CacheConfig
from ml.datasets.canonical_nodes import CanonicalNodes
from ml.datasets.collate import batch_from_rows
from ml.datasets.rows import Rows
from ml.datasets.shards import Bytes, Shard, digest, read_blocks, read_columns, shards_of
from ml.datasets.shuffle_blocks import ShuffleBlock, by_blocks, by_window, shuffle_blocks_between
from ml.datasets.slices import DaySlice, bounds_by_count, bounds_by_minutes, bounds_by_rows
from ml.datasets.splits import SPLITS
from ml.hashing import derive_seed
from ml.lake import Lake
from ml.schema import FeatureSchema

if TYPE_CHECKING:
    from ml.datasets.cache import ShardCache

Order = Literal["time", "shuffled"]
Index = npt.NDArray[np.int64]


class BlockReader:
    """Reads batches of the rows of some days and splits.

    In the order "time", days follow each other, and the rows of a day are in exact time order, even if several splits are read
    or rows were split by hash. In the order "shuffled", the order of the shards differs by epoch, and the rows of each shuffle
    block are permuted together. A shuffle block has as many shards as are needed for `blocks_per_shuffle` MDS blocks. A reader
    holds one shuffle block in memory at a time, or one window in time order.

    The blocks of a window hold rows from the whole window. In time order, every rank therefore reads all shards. In shuffled
    order, if `num_canonical_nodes` is a multiple of the number of ranks, a rank reads only its own shards (a shard may belong
    to two nodes) and holds one shuffle block per node.

    Every rank gets `len(reader)` batches of `batch_size` rows. The last batch of an epoch may be smaller, or is left out with
    `drop_last`. Its rows are divided evenly, so a rank may get no rows. `rows` is the number of rows of one epoch over all
    ranks. Each row is read once, by one rank.

    `state_dict()` counts the batches that the caller has taken. An iterator created after `load_state_dict(state)` resumes
    there, also with another world size, provided that `batch_size * world_size` is the same. Later iterators start from the
    beginning.

    Args:
        lake: The lake that holds `mds_datasets` of the days.
        spec: The dataset.
        days: Days in ascending order.
        splits: One or more of "train", "validation" and "test".
        batch_size: Rows per batch and rank.
        order: "time" or "shuffled".
        seed: Seed of the shuffled order.
        rank: This process's rank.
        world_size: Number of ranks.
        epochs: Number of passes over the rows.
        drop_last: Whether to leave out the last, smaller batch of an epoch.
        blocks_per_shuffle: Blocks whose rows are permuted together.
        num_canonical_nodes: Parts of an epoch that are read side by side (`ml.datasets.canonical_nodes`); 1 in time order.
        cache: A folder of this node through which a remote lake is read. It does not change the batches.

    Raises:
        MissingPartition: A day is not in the lake.
        StalePartition: The data was written under another version of the catalog entry.
        CorruptShard: While reading, a shard's bytes differ from what was written.
        BusyCache: Another process uses the cache folder.
        ValueError: An argument is out of range.

    Example:
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
        blocks_per_shuffle: int = 256,
        num_canonical_nodes: int = 1,
        cache: CacheConfig | None = None,
    ) -> None:
        check_positive(batch_size=batch_size, world_size=world_size, epochs=epochs, blocks_per_shuffle=blocks_per_shuffle)
        _check_names(days, splits, order)
        if order == "time" and num_canonical_nodes != 1:
            raise ValueError(f"num_canonical_nodes: expected 1 in time order, found {num_canonical_nodes}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank: expected 0 to {world_size - 1}, found {rank}")
        self.schema = FeatureSchema.of(spec)
        self.batch_size, self.rank, self.world_size, self.epochs = batch_size, rank, world_size, epochs
        self.order, self.seed, self.blocks_per_shuffle = order, seed, blocks_per_shuffle
        wanted = [split for split in SPLITS if split in splits]
        shards = [shard for day in days for split in wanted for shard in shards_of(lake, spec, day, split)]
        self._shards = sorted(shards, key=lambda shard: shard.window)
        self._global = batch_size * world_size
        self.rows = sum(shard.rows for shard in shards)
        self._nodes = CanonicalNodes(self.rows, num_canonical_nodes, self._global)
        self._epoch_batches = self.rows // self._global if drop_last else -(-self.rows // self._global)
        self._begin = self._taken = 0
        self._cache = _open_cache(self._shards, cache) if cache and shards else None
        self._identity: dict[str, Any] = {
            "order": order,
            "seed": seed,
            "blocks_per_shuffle": blocks_per_shuffle,
            "num_canonical_nodes": num_canonical_nodes,
            "global_batch": self._global,
            "drop_last": drop_last,
            "data": digest(self._shards),
        }

    def __len__(self) -> int:
        """Returns the number of batches of all epochs."""
        return self.epochs * self._epoch_batches

    def __iter__(self) -> Iterator[Batch]:
        begin, self._begin = self._begin, 0
        self._taken = begin
        return self._batches(begin)

    def slices(
        self, *, count: int | None = None, rows: int | None = None, minutes: float | None = None, first: int = 0
    ) -> Iterator[DaySlice]:
        """Yields the slices of one epoch in time order. Consume each slice before the next one, so that rows are read once.

        Args:
            count: Number of slices, whose numbers of rows differ by at most one.
            rows: Alternatively, the rows of a slice over all ranks.
            minutes: Alternatively, the width of a slice in event time, aligned to multiples since 1970-01-01 UTC. All event
                times are read first, which costs one more pass over the data. A span without rows has no slice.
            first: Number of the first slice, to resume. `DaySlice.batches` resumes inside a slice.

        Yields:
            The slices from number `first` on.

        Raises:
            ValueError: The order is not "time", or not exactly one of `count`, `rows` and `minutes` is given and positive.
        """
        if self.order != "time":
            raise ValueError(f"slices are spans of time: expected order 'time', found {self.order!r}")
        given = {name: value for name, value in (("count", count), ("rows", rows), ("minutes", minutes)) if value is not None}
        if len(given) != 1 or min(given.values()) <= 0:
            raise ValueError(f"expected a positive number for one of count, rows and minutes, found {given}")
        if not self.rows:
            return
        if count or rows:
            bounds = bounds_by_count(self.rows, count) if count else bounds_by_rows(self.rows, rows or 1)
        else:
            bounds = bounds_by_minutes(self._event_times(), minutes or 1)
        node, batch = self._node(0, 0), partial(batch_from_rows, schema=self.schema)

        def read(begin: int, end: int) -> Rows:
            parts = node.take(begin, end)
            return parts[0] if len(parts) == 1 else Rows.concatenate(parts)

        try:
            for number, (begin, end) in list(enumerate(pairwise(bounds)))[first:]:
                yield DaySlice(number, begin, end, read, batch, self._global, self.rank, self.world_size)
        finally:
            if self._cache:
                self._cache.cancel_prefetch()

    def _event_times(self) -> npt.NDArray[np.int64]:
        """Returns the event time of every row of an epoch, in time order: int64 [N], microseconds."""
        node, times = self._node(0, 0), [np.empty(0, np.int64)]
        for block in self._shuffle_blocks(0, 0):
            times += [part.event_time for part in node.take(block.begin, block.end)]
        return np.concatenate(times)

    def state_dict(self) -> dict[str, Any]:
        """Returns the position of the latest iterator and the identity of the data, as values that JSON supports."""
        return {**self._identity, "batches": self._taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Makes the next iterator resume at a position.

        Args:
            state: A result of `state_dict()`.

        Raises:
            ValueError: The state belongs to other data, another order or another global batch size.
        """
        differ = {key: (state.get(key), own) for key, own in self._identity.items() if state.get(key) != own}
        if differ:
            faults = ", ".join(f"{key}: {theirs!r} in the state, {own!r} here" for key, (theirs, own) in differ.items())
            raise ValueError(f"the state belongs to a different reader and cannot be resumed here: {faults}")
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
        """Yields this rank's part of each global batch of an epoch, from batch `first` on."""
        nodes: dict[int, _Node] = {}
        try:
            for number in range(first, self._epoch_batches):
                parts: list[Rows] = []
                for node, begin, end in self._nodes.share(number, self.rank, self.world_size):
                    if node not in nodes:
                        nodes[node] = self._node(epoch, node)
                    parts += nodes[node].take(begin, end)
                yield parts[0] if len(parts) == 1 else Rows.concatenate(parts)
        finally:
            if self._cache:
                self._cache.cancel_prefetch()

    def _node(self, epoch: int, node: int) -> _Node:
        return _Node(self._shuffle_blocks(epoch, node), partial(self._open, epoch, node))

    def _shuffle_blocks(self, epoch: int, node: int) -> list[ShuffleBlock]:
        begin, end = self._nodes.end(node - 1), self._nodes.end(node)
        if self.order == "time":
            return shuffle_blocks_between(begin, end, self._shards, by_window)
        order = np.random.default_rng(derive_seed(self.seed, "shards", epoch)).permutation(len(self._shards))
        return shuffle_blocks_between(
            begin, end, [self._shards[i] for i in order], partial(by_blocks, blocks=self.blocks_per_shuffle)
        )

    def _open(self, epoch: int, node: int, blocks: Sequence[ShuffleBlock], scratch: dict[str, Bytes]) -> tuple[Rows, Index]:
        """Reads the first of some shuffle blocks, and prefetches the others.

        Returns:
            All rows of the block's shards, and the indices of the block's own rows in the order in which they are read.
        """
        block = blocks[0]
        if self._cache:
            self._cache.prefetch((shard for block in blocks[1:] for shard in block.shards), beside=block.shards)
        read = self._cache.read if self._cache else read_blocks
        rows = Rows.from_bytes(read_columns(block.shards, scratch, read), self.schema)
        if self.order == "time":
            return rows, np.argsort(rows.position)
        seed = derive_seed(self.seed, "rows", epoch, block.number + node * len(self._shards))
        return rows, block.skip + np.random.default_rng(seed).permutation(block.end - block.begin)


class _Node:
    """The reading position in one canonical node: holds the rows of the current shuffle block and their order."""

    def __init__(self, blocks: Sequence[ShuffleBlock], open_first: Callable[..., tuple[Rows, Index]]) -> None:
        self._shuffle_blocks, self._open = blocks, open_first
        self._ends = [block.end for block in blocks]
        self._number, self._rows, self._order = -1, None, np.empty(0, np.int64)
        self._scratch: dict[str, Bytes] = {}

    def take(self, begin: int, end: int) -> list[Rows]:
        """Returns rows [begin, end) of the epoch, one part per shuffle block. There is at least one part; it may be empty."""
        parts: list[Rows] = []
        while begin < end or not parts:
            number = min(bisect_right(self._ends, begin), len(self._shuffle_blocks) - 1)
            if self._rows is None or (number != self._number and begin < end):
                self._number = number
                self._rows, self._order = self._open(self._shuffle_blocks[number : number + 2], self._scratch)
            start = self._shuffle_blocks[number].begin
            parts.append(self._rows.take(self._order[begin - start : end - start]))
            begin = min(end, self._ends[number])
        return parts


def _open_cache(shards: Sequence[Shard], config: CacheConfig) -> ShardCache:
    from ml.datasets.cache import ShardCache  # takes seconds to import

    return ShardCache(shards, config)


def _check_names(days: Sequence[str], splits: Sequence[str], order: str) -> None:
    if isinstance(days, str) or not days or list(days) != sorted(set(days)):
        raise ValueError(f"days: expected one or more different days in ascending order, found {days!r}")
    if isinstance(splits, str) or not splits or set(splits) - set(SPLITS) or len(set(splits)) != len(splits):
        raise ValueError(f"splits: expected some of {SPLITS}, found {splits!r}")
    if order not in get_args(Order):
        raise ValueError(f"order: expected one of {get_args(Order)}, found {order!r}")
