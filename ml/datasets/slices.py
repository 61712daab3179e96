"""Slices: spans of a day in time order, the unit of online training. A pass, a slice and a day are three different things.

Slices are cut by number of rows or by event time. Each row is in one slice for any number of ranks, and no batch crosses
the end of a slice. Reading is the responsibility of `ml.datasets.reader`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ml.datasets.canonical_nodes import CanonicalNodes
from ml.days import MICROSECONDS_PER_MINUTE

if TYPE_CHECKING:
    from ml.datasets.batch import Batch  # imports torch, which reports do without
    from ml.datasets.rows import Rows


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of a slice, read once, in the form that predictions need and in the form that training needs.

    Attributes:
        whole: All rows as one batch.
        batches: The same rows as batches of training.
    """

    whole: Batch
    batches: list[Batch]


@dataclass(frozen=True)
class DaySlice:
    """Rows `[begin, end)` of the time order of a reader.

    Iterating over a slice yields this rank's part of each of its global batches; `batches` resumes inside.

    Attributes:
        number: Index of the slice among the slices of the reader, from 0.
        begin: First row.
        end: The row after the last one.
    """

    number: int
    begin: int
    end: int
    _read: Callable[[int, int], Rows]  # reads rows [begin, end) of the time order
    _batch: Callable[[Rows], Batch]
    _global_batch: int
    _rank: int
    _world_size: int

    @property
    def rows(self) -> int:
        """Rows of the slice over all ranks."""
        return self.end - self.begin

    @property
    def batch_rows(self) -> int:
        """Rows of a global batch: at most the batch size, so that the batches of the slice have about the same size.

        A small last batch would have the same weight in training as a full one.
        """
        whole = -(-self.rows // -(-self.rows // self._global_batch)) if self.rows else self._global_batch
        return -(-whole // self._world_size) * self._world_size

    def __len__(self) -> int:
        """Returns the number of batches, which is the same on every rank."""
        return -(-self.rows // self.batch_rows)

    def __iter__(self) -> Iterator[Batch]:
        return self.batches()

    def batches(self, first: int = 0) -> Iterator[Batch]:
        """Reads this rank's part of each global batch of the slice, from batch number `first` on.

        The rows of the last batch are divided evenly, so a rank may get none of them.
        """
        nodes = CanonicalNodes(self.rows, 1, self.batch_rows)
        for number in range(first, len(self)):
            ((_, begin, end),) = nodes.share(number, self._rank, self._world_size)
            yield self._batch(self._read(self.begin + begin, self.begin + end))

    def chunks(self, rows: int) -> Iterator[Chunk]:
        """Reads the slice on one rank as chunks of whole batches.

        Large batches are faster to predict than those of training, and a chunk bounds the memory of a long slice.

        Args:
            rows: Rows of a chunk; rounded down to a multiple of the batch size, and at least one batch.

        Raises:
            ValueError: There are several ranks.
        """
        if self._world_size > 1:
            raise ValueError(f"chunks are read on one rank, found {self._world_size}")
        size = self.batch_rows
        step = max(rows // size, 1) * size
        for begin in range(self.begin, self.end, step):
            held = self._read(begin, min(begin + step, self.end))
            bounds = [*range(0, len(held), size), len(held)]
            yield Chunk(self._batch(held), [self._batch(held.between(a, b)) for a, b in pairwise(bounds)])


def bounds_by_count(total: int, count: int) -> list[int]:
    """Returns the bounds of `count` slices whose numbers of rows differ by at most one; without empty slices.

    >>> bounds_by_count(10, 4)
    [0, 2, 5, 7, 10]
    """
    return sorted({total * number // count for number in range(count + 1)})


def bounds_by_rows(total: int, rows: int) -> list[int]:
    """Returns the bounds of slices of `rows` rows; the last one may be shorter."""
    return [*range(0, total, rows), total] if total else [0]


def bounds_by_minutes(times: npt.NDArray[np.int64], minutes: float) -> list[int]:
    """Returns the bounds of slices by event time.

    A slice holds the rows of one span `[n * minutes, (n + 1) * minutes)` since 1970 UTC. A span without rows has no slice.

    Args:
        times: int64 [N], event times in microseconds, ascending.
        minutes: Width of a span.

    Returns:
        The first row of each slice, then N.
    """
    span = times // round(minutes * MICROSECONDS_PER_MINUTE)
    starts = np.flatnonzero(np.diff(span, prepend=span[:1] - 1))
    return [*starts.tolist(), len(times)]
