"""Working memory of a look-up, which its update reads. Buffers are used again by later batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass
class PartitionBuffers:
    """Buffers of one thread, which handles the features of some tables.

    Args:
        features: Numbers of the features, int64.
        distinct: Distinct rows that occur, int64 [N]; the first `found` are valid.
        without: Positions of occurrences without a row, int64 [N]; the first `missing` are valid.
        tables: The table of each of these, int64 [N].
        summed: Gradients summed by distinct row, float32 [N, D].
        found: Number of distinct rows.
        missing: Number of occurrences without a row.
    """

    features: NDArray[np.int64]
    distinct: NDArray[np.int64]
    without: NDArray[np.int64]
    tables: NDArray[np.int64]
    summed: NDArray[np.float32]
    found: int = 0
    missing: int = 0

    @classmethod
    def allocate(cls, n: int, dim: int) -> PartitionBuffers:
        distinct, without, tables = (np.empty(n, np.int64) for _ in range(3))
        return cls(np.empty(0, np.int64), distinct, without, tables, np.empty((n, dim), np.float32))


@dataclass
class LookupContext:
    """What a look-up of N occurrences leaves for the update.

    Args:
        rows: The row of each occurrence, int64 [N].
        lines: The line of the gradient, as [B * F, D], that belongs to its bag, int32 [N].
        shares: Its weight in the bag, float32 [N].
        places: The index of its row among `distinct` of its partition, -1 without a row, int32 [N].
        partitions: Buffers of each thread.
    """

    rows: NDArray[np.int64]
    lines: NDArray[np.int32]
    shares: NDArray[np.float32]
    places: NDArray[np.int32]
    partitions: list[PartitionBuffers]

    @classmethod
    def allocate(cls, n: int) -> LookupContext:
        return cls(np.empty(n, np.int64), np.empty(n, np.int32), np.empty(n, np.float32), np.empty(n, np.int32), [])

    def __len__(self) -> int:
        return len(self.rows)

    def partition(self, features: Sequence[NDArray[np.int64]], dim: int) -> None:
        """Assigns features to partitions; partitions beyond these get none."""
        for number, own in enumerate(features):
            if number == len(self.partitions):
                self.partitions.append(PartitionBuffers.allocate(len(self), dim))
            self.partitions[number].features = own
        for unused in self.partitions[len(features) :]:
            unused.features = np.empty(0, np.int64)

    def found_rows(self) -> NDArray[np.int64]:
        """Distinct rows that occur, int64."""
        return np.concatenate([own.distinct[: own.found] for own in self.partitions])


@dataclass(eq=False)
class PendingUpdate:
    """A training look-up that waits for its gradient. Its rows are not evicted.

    Args:
        context: What the look-up left.
        offsets: Of the bags, int64 [F * B + 1].
        deletions: How often rows had been deleted by request before the look-up.
        done: Whether the update has happened.
    """

    context: LookupContext
    offsets: NDArray[np.int64]
    deletions: int
    done: bool = False


def partition_features(
    table_of: NDArray[np.int64], ids_of: NDArray[np.int64], tables: int, threads: int
) -> list[NDArray[np.int64]]:
    """Splits features over threads. Features of one table stay together, because a row is updated by one thread.

    Tables are assigned from the largest on, each to the thread with the least work so far.

    Args:
        table_of: The table of each feature, int64 [F].
        ids_of: Number of ids of each feature, int64 [F].
        tables: Number of tables.
        threads: Number of threads.

    Returns:
        Numbers of the features of each thread that has any.
    """
    if threads == 1 or tables == 1:
        return [np.arange(len(table_of))]
    work = np.bincount(table_of, ids_of, tables)
    loads, thread_of = np.zeros(threads), np.zeros(tables, np.int64)
    for table in np.argsort(-work, kind="stable"):
        thread_of[table] = loads.argmin()
        loads[thread_of[table]] += work[table]
    parts = [np.flatnonzero(thread_of[table_of] == thread) for thread in range(threads)]
    return [part for part in parts if len(part)]
