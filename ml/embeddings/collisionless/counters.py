"""Counters of look-ups, admissions and deletions in the tables of a store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray


@dataclass
class Counters:
    """Counts by table since the store was created, int64 [T] each.

    Args:
        looked_up: Occurrences of ids in training batches.
        unknown: Occurrences of ids that had no row before the batch.
        admitted: Ids that were given a row.
        expired: Rows that were deleted after their time to live.
        evicted: Rows that were deleted because the table was full.
    """

    looked_up: NDArray[np.int64]
    unknown: NDArray[np.int64]
    admitted: NDArray[np.int64]
    expired: NDArray[np.int64]
    evicted: NDArray[np.int64]

    @classmethod
    def zeros(cls, tables: int) -> Counters:
        return cls(*(np.zeros(tables, np.int64) for _ in fields(cls)))

    def as_rows(self) -> Iterator[NDArray[np.int64]]:
        return (getattr(self, field.name) for field in fields(self))

    def copy(self) -> Counters:
        return Counters(*(row.copy() for row in self.as_rows()))

    def since(self, before: Counters) -> Counters:
        """Return the differences from earlier counters."""
        return Counters(*(now - then for now, then in zip(self.as_rows(), before.as_rows(), strict=True)))
