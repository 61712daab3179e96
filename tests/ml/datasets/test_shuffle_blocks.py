"""Shuffle blocks of made-up shards hold each requested row once, and no shard without a requested row."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from upath import UPath

from ml.datasets.shards import Shard
from ml.datasets.shuffle_blocks import by_blocks, by_window, shuffle_blocks_between

SIZES = st.lists(st.integers(1, 30), min_size=1, max_size=12)


def made(sizes: list[int]) -> list[Shard]:
    return [Shard(UPath(f"/{n}"), {}, ("2026-01-01", n // 2), -(-rows // 8), rows) for n, rows in enumerate(sizes)]


@given(sizes=SIZES, cuts=st.lists(st.floats(0, 1), max_size=5), blocks=st.integers(1, 20))
def test_parts_of_an_epoch_hold_each_row_once(sizes: list[int], cuts: list[float], blocks: int) -> None:
    shards, rows = made(sizes), sum(sizes)
    of_epoch = [(n, i) for n, shard in enumerate(shards) for i in range(shard.rows)]
    places = sorted({0, rows, *(round(cut * rows) for cut in cuts)})
    seen = []
    for begin, end in pairwise(places):
        for number, block in enumerate(shuffle_blocks_between(begin, end, shards, partial(by_blocks, blocks=blocks))):
            held = [(shards.index(shard), i) for shard in block.shards for i in range(shard.rows)]
            own = held[block.skip :][: block.end - block.begin]
            assert own == of_epoch[block.begin : block.end] and block.number == number
            assert {n for n, _ in own} == {shards.index(shard) for shard in block.shards}
            assert sum(shard.blocks for shard in block.shards[:-1]) < blocks
            seen += own
    assert seen == of_epoch


@given(sizes=SIZES, at=st.floats(0, 1))
def test_an_empty_range_is_one_empty_shuffle_block(sizes: list[int], at: float) -> None:
    place = round(at * sum(sizes))
    (block,) = shuffle_blocks_between(place, place, made(sizes), partial(by_blocks, blocks=4))
    assert block.begin == block.end == place and len(block.shards) == 1


@given(sizes=SIZES)
def test_a_window_is_one_shuffle_block(sizes: list[int]) -> None:
    blocks = shuffle_blocks_between(0, sum(sizes), made(sizes), by_window)
    assert [[shard.window[1] for shard in block.shards] for block in blocks] == [
        [n // 2] * len(sizes[n : n + 2]) for n in range(0, len(sizes), 2)
    ]
