"""Groups the shards of an epoch into shuffle blocks, whose rows are in memory together to be sorted or permuted.

This module computes the position of each block in the epoch's sequence of rows. It opens no file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from ml.datasets.shards import Shard

Group = tuple[Shard, ...]


@dataclass(frozen=True)
class ShuffleBlock:
    """Rows `[begin, end)` of an epoch.

    Attributes:
        shards: The shards that hold the rows.
        skip: Number of rows at the start of the shards that belong to another block.
        begin: First row.
        end: The row after the last one.
        number: Index of the block among the blocks of the same range of rows.
    """

    shards: Group
    skip: int
    begin: int
    end: int
    number: int


def shuffle_blocks_between(
    begin: int, end: int, sequence: Sequence[Shard], group: Callable[[Sequence[Shard]], Sequence[Group]]
) -> list[ShuffleBlock]:
    """Groups the shards that hold rows `[begin, end)` of an epoch.

    Args:
        begin: First row of the range.
        end: Row after the last one.
        sequence: Shards of the whole epoch, in its order.
        group: Divides consecutive shards into groups.

    Returns:
        At least one block; it may be empty. Only the first and the last shard can hold rows outside the range.
    """
    ends = np.cumsum([shard.rows for shard in sequence])  # [shards]
    first = min(int(np.searchsorted(ends, begin, side="right")), len(sequence) - 1)
    last = max(int(np.searchsorted(ends, end)), first)
    at = int(ends[first]) - sequence[first].rows
    blocks = []
    for number, shards in enumerate(group(sequence[first : last + 1])):
        following = at + sum(shard.rows for shard in shards)
        blocks.append(ShuffleBlock(shards, max(begin - at, 0), max(at, begin), min(following, end), number))
        at = following
    return blocks


def by_window(shards: Sequence[Shard]) -> list[Group]:
    """Groups consecutive shards by window, over all splits."""
    return [tuple(group) for _, group in groupby(shards, key=lambda shard: shard.window)]


def by_blocks(shards: Sequence[Shard], blocks: int) -> list[Group]:
    """Groups consecutive shards until each group holds at least `blocks` MDS samples; the last group may hold fewer."""
    groups, held = [[]], 0
    for shard in shards:
        if held >= blocks:
            groups.append([])
            held = 0
        groups[-1].append(shard)
        held += shard.blocks
    return [tuple(group) for group in groups]
