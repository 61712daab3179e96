"""Working memory of a look-up, which its update reads. Later batches reuse the buffers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass
class PartitionBuffers:
    """Buffers of one thread, which processes the features of some tables.

    Args:
        features: Indices of the features, int64.
        distinct: Distinct rows that occur, int64 [N]; the first `found` entries are valid.
        without: Positions of occurrences without a row, int64 [N]; the first `missing` entries are valid.
        tables: Table of each occurrence in `without`, int64 [N].
        summed: Summed gradient of each distinct row, float32 [N, D].
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
    """Results of a look-up of N occurrences that the update needs.

    Args:
        rows: Row of each occurrence, int64 [N].
        lines: For each occurrence, the index of its bag in the gradient viewed as [B * F, D], int32 [N].
        shares: Weight of each occurrence in its bag, float32 [N].
        places: Index of each occurrence's row in `distinct` of its partition, int32 [N]; -1 without a row.
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
        """Assign features to partitions. Any further partitions get no features."""
        for number, own in enumerate(features):
            if number == len(self.partitions):
                self.partitions.append(PartitionBuffers.allocate(len(self), dim))
            self.partitions[number].features = own
        for unused in self.partitions[len(features) :]:
            unused.features = np.empty(0, np.int64)

    def found_rows(self) -> NDArray[np.int64]:
        """Return the distinct rows that occur, int64."""
        return np.concatenate([own.distinct[: own.found] for own in self.partitions])


@dataclass(eq=False)
class PendingUpdate:
    """A training look-up that awaits its gradient. Its rows are not evicted.

    Args:
        context: Results of the look-up.
        offsets: Offsets of the bags, int64 [F * B + 1].
        deletions: The store's number of calls that had deleted rows before the look-up, without evictions.
        done: Whether the rows have been updated.
    """

    context: LookupContext
    offsets: NDArray[np.int64]
    deletions: int
    done: bool = False


def partition_features(
    table_of: NDArray[np.int64], ids_of: NDArray[np.int64], tables: int, threads: int
) -> list[NDArray[np.int64]]:
    """Divide features among threads. All features of a table go to one thread, so that one thread updates each row.

    Tables are assigned in descending order of their number of ids, each to the thread with the fewest ids so far.

    Args:
        table_of: Table of each feature, int64 [F].
        ids_of: Number of ids of each feature, int64 [F].
        tables: Number of tables.
        threads: Number of threads.

    Returns:
        Indices of the features of each thread; threads without features are left out.
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
