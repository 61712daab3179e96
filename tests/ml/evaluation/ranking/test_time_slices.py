"""Slices hold all rows in order, each in the slice of its time, however the rows are divided into chunks."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ml.days import MICROSECONDS_PER_MINUTE
from ml.evaluation.ranking.time_slices import time_slices

BEGIN = 7 * MICROSECONDS_PER_MINUTE


@given(st.lists(st.integers(0, 30 * MICROSECONDS_PER_MINUTE)), st.lists(st.integers(0, 40)))
def test_slices_do_not_depend_on_chunks(times: list[int], cuts: list[int]) -> None:
    rows = np.sort(np.array(times, np.int64))
    chunks = np.split(rows, sorted(min(cut, len(rows)) for cut in cuts))
    found = list(time_slices(chunks, lambda chunk: chunk, lambda chunk, a, b: chunk[a:b], begin=BEGIN, minutes=2.5))
    starts = [start for start, _ in found]
    width = round(2.5 * MICROSECONDS_PER_MINUTE)
    assert starts == sorted({BEGIN + (time - BEGIN) // width * width for time in rows.tolist()})
    assert [time for _, parts in found for part in parts for time in part.tolist()] == rows.tolist()
    assert all(start <= time < start + width for start, parts in found for part in parts for time in part.tolist())
