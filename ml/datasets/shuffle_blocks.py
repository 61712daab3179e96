"""Shards in the order of an epoch, in pools: the rows of one are in memory together, so that they can be sorted or mixed.

Where a pool lies in the epoch's sequence of rows is known here; what its rows are, who reads it does. Opens no file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from ml.datasets.shards import Shard

Group = tuple[Shard, ...]


@dataclass(frozen=True)
class Pool:
    """Rows `begin` to `end` of an epoch: those of `shards`, in their order, less the first `skip`, up to as many.

    number: of the pools between the same rows, which it is.
    """

    shards: Group
    skip: int
    begin: int
    end: int
    number: int


def pools_between(
    begin: int, end: int, sequence: Sequence[Shard], group: Callable[[Sequence[Shard]], Sequence[Group]]
) -> list[Pool]:
    """Pools of these rows of an epoch whose shards are `sequence`; one at least, which may be empty.

    Only its first and its last shard hold rows of others.
    """
    ends = np.cumsum([shard.rows for shard in sequence])
    first = min(int(np.searchsorted(ends, begin, side="right")), len(sequence) - 1)
    last = max(int(np.searchsorted(ends, end)), first)
    at = int(ends[first]) - sequence[first].rows
    pools = []
    for number, shards in enumerate(group(sequence[first : last + 1])):
        following = at + sum(shard.rows for shard in shards)
        pools.append(Pool(shards, max(begin - at, 0), max(at, begin), min(following, end), number))
        at = following
    return pools


def by_window(shards: Sequence[Shard]) -> list[Group]:
    """Shards of one window, of any split, together."""
    return [tuple(group) for _, group in groupby(shards, key=lambda shard: shard.window)]


def by_blocks(shards: Sequence[Shard], blocks: int) -> list[Group]:
    """As many shards together as hold so many blocks, or are left."""
    groups, held = [[]], 0
    for shard in shards:
        if held >= blocks:
            groups.append([])
            held = 0
        groups[-1].append(shard)
        held += shard.blocks
    return [tuple(group) for group in groups]
