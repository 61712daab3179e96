"""Divides a stream of rows into slices of equal duration: a ranking is scored on a slice and learns from it afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ml.datasets.slices import bounds_by_minutes
from ml.days import MICROSECONDS_PER_MINUTE

Rows = TypeVar("Rows")


def time_slices(
    chunks: Iterable[Rows],
    times: Callable[[Rows], NDArray[np.int64]],
    cut: Callable[[Rows, int, int], Rows],
    *,
    begin: int,
    minutes: float,
) -> Iterator[tuple[int, list[Rows]]]:
    """Yield the start and the rows of each slice `[begin + n * minutes, begin + (n + 1) * minutes)` that has rows.

    Args:
        chunks: Rows in time order. Chunks may end anywhere, and rows may be earlier than `begin`.
        times: Returns the event times of a chunk of N rows, int64 [N], microseconds since 1970 UTC.
        cut: Returns the rows `[first, stop)` of a chunk.
        begin: Start of a slice, in microseconds since 1970 UTC.
        minutes: Width of a slice.

    Yields:
        The start of the slice in microseconds since 1970 UTC, and its rows as parts of chunks.
    """
    width = round(minutes * MICROSECONDS_PER_MINUTE)
    current, held = begin, []
    for chunk in chunks:
        since = times(chunk) - begin
        for first, stop in pairwise(bounds_by_minutes(since, minutes)):
            start = begin + int(since[first]) // width * width
            if held and start != current:
                yield current, held
                held = []
            current = start
            held.append(cut(chunk, first, stop))
    if held:
        yield current, held
