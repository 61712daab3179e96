"""The slices of a reader partition its rows in time order, for any number of ranks, and reading resumes at any batch."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.compute.runner import LocalRunner
from ml.datasets.batch import Batch
from ml.datasets.reader import BlockReader
from ml.datasets.slices import bounds_by_minutes
from ml.datasets.splits import SPLITS
from ml.datasets.write import write_day
from ml.days import MICROSECONDS_PER_MINUTE
from ml.lake import Lake
from tests.helpers.feature_table import DAY, make_spec, write_table
from tests.helpers.trials import examples

ROWS = 500
SPAN = 20 / MICROSECONDS_PER_MINUTE  # 20 microseconds in minutes, because the test's rows are this close


@pytest.fixture
def spec(lake: Lake):
    spec = make_spec(multi=1)
    write_table(lake, spec, ROWS)
    write_day(spec, DAY, lake, LocalRunner(), block_rows=16, window_blocks=4)
    return spec


def reader(lake: Lake, spec, rank: int = 0, world_size: int = 1, batch_size: int = 24) -> BlockReader:
    return BlockReader(lake, spec, [DAY], splits=SPLITS, batch_size=batch_size // world_size, rank=rank, world_size=world_size)


def times(batches: list[Batch]) -> list[int]:
    return [time for batch in batches for time in batch.event_time.tolist()]


def ids(batches: list[Batch]) -> list[int]:
    return [i for batch in batches for i in batch.sparse["s0"].values().tolist()]


CUTS: list[dict[str, float]] = [
    *({"rows": rows} for rows in (1, 70, ROWS, 10_000)),
    *({"count": count} for count in (7, 10_000)),
    *({"minutes": minutes} for minutes in (1, SPAN)),
]


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_slices_hold_each_row_once_in_time_order(lake: Lake, spec, cut: dict, world_size: int) -> None:
    whole = ids(list(reader(lake, spec)))
    per_rank = [[list(part) for part in reader(lake, spec, rank, world_size).slices(**cut)] for rank in range(world_size)]
    slices = list(reader(lake, spec).slices(**cut))
    assert [part.begin for part in slices] == [0, *(part.end for part in slices[:-1])] and slices[-1].end == ROWS
    found = []
    for part, of_ranks in zip(slices, zip(*per_rank, strict=True), strict=True):
        assert {len(batches) for batches in of_ranks} == {len(part)}
        in_slice = [i for batches in zip(*of_ranks, strict=True) for i in ids(list(batches))]
        assert len(in_slice) == part.rows
        found += in_slice
    assert found == whole


def test_slices_by_minutes_are_half_open_spans(lake: Lake, spec) -> None:
    width = round(SPAN * MICROSECONDS_PER_MINUTE)
    spans = [{time // width for time in times(list(part))} for part in reader(lake, spec).slices(minutes=SPAN)]
    assert all(len(span) == 1 for span in spans)
    assert len(set.union(*spans)) == len(spans) > 1


def test_reading_resumes_at_any_batch_of_any_slice_with_another_world_size(lake: Lake, spec) -> None:
    whole = [[ids([batch]) for batch in part] for part in reader(lake, spec).slices(rows=70)]
    for first, batch in ((0, 1), (3, 0), (3, 2), (7, 0)):
        resumed = []
        for rank in range(2):
            slices = reader(lake, spec, rank, 2).slices(rows=70, first=first)
            resumed.append([[ids([b]) for b in part.batches(batch if part.number == first else 0)] for part in slices])
        together = [[a + b for a, b in zip(*parts, strict=True)] for parts in zip(*resumed, strict=True)]
        assert together == [whole[first][batch:], *whole[first + 1 :]]


def test_slices_need_time_order_and_one_way_to_cut(lake: Lake, spec) -> None:
    shuffled = BlockReader(lake, spec, [DAY], batch_size=8, order="shuffled")
    with pytest.raises(ValueError, match="expected order 'time'"):
        next(shuffled.slices(rows=5))
    for wrong in ({}, {"rows": 0}, {"rows": 5, "minutes": 5}, {"minutes": -1}):
        with pytest.raises(ValueError, match="expected a positive number"):
            next(reader(lake, spec).slices(**wrong))


@examples(100)
@given(st.lists(st.integers(-(10**12), 10**12), max_size=50), st.sampled_from([0.5, 10.0, 1440.0]))
def test_bounds_by_minutes_separate_spans(moments: list[int], minutes: float) -> None:
    ascending = np.sort(np.array(moments, np.int64))
    bounds = bounds_by_minutes(ascending, minutes)
    spans = [set((ascending[a:b] // round(minutes * MICROSECONDS_PER_MINUTE)).tolist()) for a, b in pairwise(bounds)]
    assert all(len(span) == 1 for span in spans)
    assert sum(map(len, spans)) == len(set().union(*spans))


def test_slices_by_count_are_of_equal_size(lake: Lake, spec) -> None:
    sizes = [part.rows for part in reader(lake, spec).slices(count=7)]
    assert len(sizes) == 7 and max(sizes) - min(sizes) <= 1
    assert len(list(reader(lake, spec).slices(count=10_000))) == ROWS


@pytest.mark.parametrize("rows", [1, 24, 60, 10_000])
def test_a_chunk_has_the_rows_of_its_batches(lake: Lake, spec, rows: int) -> None:
    for part, same in zip(reader(lake, spec).slices(rows=170), reader(lake, spec).slices(rows=170), strict=True):
        chunks, batches = list(part.chunks(rows)), list(same)
        assert [ids([batch]) for chunk in chunks for batch in chunk.batches] == [ids([batch]) for batch in batches]
        assert [ids([chunk.whole]) for chunk in chunks] == [ids(chunk.batches) for chunk in chunks]
        assert all(len(chunk.whole) <= max(rows, 24) for chunk in chunks)
        assert [chunk.whole.sparse["m0"].values().tolist() for chunk in chunks] == [
            [i for batch in chunk.batches for i in batch.sparse["m0"].values().tolist()] for chunk in chunks
        ]


def test_chunks_are_read_on_one_rank(lake: Lake, spec) -> None:
    with pytest.raises(ValueError, match="one rank, found 2"):
        list(next(reader(lake, spec, 0, 2).slices(count=1)).chunks(100))


@pytest.mark.parametrize("cut", [{"rows": 5}, {"count": 5}, {"minutes": 5}])
def test_a_day_without_rows_has_no_slices(lake: Lake, cut: dict) -> None:
    empty = make_spec(multi=1)
    write_table(lake, empty, 0)
    write_day(empty, DAY, lake, LocalRunner(), block_rows=16, window_blocks=4)
    assert list(reader(lake, empty).slices(**cut)) == []
