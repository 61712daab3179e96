"""What befell the tables of a store, counted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray


@dataclass
class Counters:
    """By table, int64 [T], since the store was new: occurrences looked up in training; of these without a row before their
    batch; rows admitted; rows that expired; rows evicted to make way."""

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
        return Counters(*(now - then for now, then in zip(self.as_rows(), before.as_rows(), strict=True)))
