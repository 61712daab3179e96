"""Reading training data as batches: which rows, in which order, on which rank, from where on.

The order of an epoch is one sequence of rows, whatever the number of ranks: pools of shards, the rows of each either in
time order or permuted. Global batch g is rows [g * G, (g + 1) * G) of it, G = batch_size * world_size, and rank r takes
the r-th part. The format of the files is `ml.datasets.shards`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from ml.catalog.spec import DatasetSpec
from ml.datasets.batch import Batch
from ml.datasets.blocks import Rows
from ml.datasets.collate import batch_from_rows
from ml.datasets.layout import SPLITS, derive_seed
from ml.datasets.shards import Bytes, Shard, digest, pool_bytes, shards_of
from ml.features.schema import FeatureSchema
from ml.lake import Lake

Order = Literal["time", "shuffled"]
Pool = tuple[Shard, ...]
Index = npt.NDArray[np.int64]


class BlockReader:
    """Batches of the rows of some days and splits.

    order "time": days in sequence, within a day the exact time order, also where several splits are read or rows went to
    splits by hash. order "shuffled": shards in an order that differs by epoch, then the rows of as many shards as hold
    at least `mix_blocks` blocks permuted together. A reader holds one such pool, or in time order one window, at a time.

    Every rank gets `len(reader)` batches of `batch_size` rows; the last of an epoch is smaller (rows left over are
    dealt evenly, so a rank may get none of them) or, with `drop_last`, left out. `rows` is the number of rows of one
    epoch over all ranks.

    `state_dict()` says how many batches the caller has taken; an iterator made after `load_state_dict(state)` goes on
    from there, also with another world size as long as batch_size * world_size is the same. Later iterators begin at the
    beginning.

    Raises `MissingPartition`, `OtherData` where the lake holds data of another specification, `CorruptShard` while
    reading, and `ValueError` for an argument out of range.

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
    ) -> None:
        _at_least_one(batch_size=batch_size, world_size=world_size, epochs=epochs, mix_blocks=mix_blocks)
        _check_names(days, splits, order)
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
        self._epoch_batches = self.rows // self._global if drop_last else -(-self.rows // self._global)
        self._begin = self._taken = 0
        self._identity: dict[str, Any] = {
            "order": order,
            "seed": seed,
            "mix_blocks": mix_blocks,
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
        pools = self._pools(epoch)
        ends = np.cumsum([sum(shard.rows for shard in pool) for pool in pools])
        loaded, rows, order = -1, None, np.empty(0, np.int64)
        scratch: dict[str, Bytes] = {}
        for number in range(first, self._epoch_batches):
            begin, end = self._share(number)
            parts: list[Rows] = []
            while begin < end or not parts:
                pool = min(int(np.searchsorted(ends, begin, side="right")), len(pools) - 1)
                if rows is None or pool != loaded:
                    loaded, rows = pool, Rows.from_bytes(pool_bytes(pools[pool], scratch), self.schema)
                    order = self._arrange(rows, epoch, pool)
                start = int(ends[pool]) - len(rows)
                parts.append(rows.take(order[begin - start : end - start]))
                begin = min(end, int(ends[pool]))
            yield parts[0] if len(parts) == 1 else Rows.concatenate(parts)

    def _share(self, number: int) -> tuple[int, int]:
        """Rows of the epoch that are this rank's in global batch `number`; what the last one holds is dealt evenly."""
        begin = number * self._global
        each, more = divmod(min(self._global, self.rows - begin), self.world_size)
        begin += self.rank * each + min(self.rank, more)
        return begin, begin + each + (self.rank < more)

    def _pools(self, epoch: int) -> list[Pool]:
        if self.order == "time":
            return [tuple(shards) for _, shards in groupby(self._shards, key=lambda shard: shard.window)]
        pools, held = [[]], 0
        for i in np.random.default_rng(derive_seed(self.seed, "shards", epoch)).permutation(len(self._shards)):
            if held >= self.mix_blocks:
                pools.append([])
                held = 0
            pools[-1].append(self._shards[i])
            held += self._shards[i].blocks
        return [tuple(pool) for pool in pools]

    def _arrange(self, rows: Rows, epoch: int, pool: int) -> Index:
        if self.order == "time":
            return np.argsort(rows.position)
        return np.random.default_rng(derive_seed(self.seed, "rows", epoch, pool)).permutation(len(rows))


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
