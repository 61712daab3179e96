"""A uniform sample of rows that merges over parts and days: the rows with the smallest hashes of (day, position)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ml.advisor.profiles.id_counts import hash_ids
from ml.hashing import derive_seed, mix64_array

ROWS = 2**15


@dataclass(frozen=True, eq=False)
class RowSample:
    """S rows, by ascending priority: the label, the dense features, and the sparse features with one id per row.

    Attributes:
        priorities: Hash of each row's day and position, uint64 [S].
        labels: Whether the label is 1, bool [S].
        dense: Values by feature, float32 [S].
        sparse: Hashes of the ids by feature, uint32 [S]. Two of the S ids of a feature collide with probability S^2 / 2^33.
    """

    priorities: npt.NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))
    labels: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    dense: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    sparse: Mapping[str, npt.NDArray[np.uint32]] = field(default_factory=dict)

    def take(self, rows: npt.NDArray[np.int64]) -> RowSample:
        """Returns a sample of the rows at positions [T]."""
        return RowSample(
            self.priorities[rows],
            self.labels[rows],
            {name: values[rows] for name, values in self.dense.items()},
            {name: values[rows] for name, values in self.sparse.items()},
        )


def chosen_rows(day: str, first: int, count: int, limit: int = ROWS) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64]]:
    """Chooses at most `limit` rows of a part.

    Args:
        day: The partition key.
        first: Position in the day of the part's first row.
        count: Number of rows of the part.
        limit: Size of the sample.

    Returns:
        Positions in the part, int64 [S], and priorities, uint64 [S], by ascending priority.
    """
    at = np.arange(first, first + count, dtype=np.uint64)
    priorities = mix64_array(at + np.uint64(derive_seed("feature profile", day)))
    rows = np.argsort(priorities, kind="stable")[:limit]
    return rows, priorities[rows]


def short_hash(ids: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
    """Hashes ids [S] to 32 bits."""
    return (hash_ids(ids) >> np.uint64(32)).astype(np.uint32)


def merge_samples(parts: Sequence[RowSample], limit: int = ROWS) -> RowSample:
    """Merges samples of disjoint sets of rows. Parts without rows may lack columns."""
    filled = [part for part in parts if len(part.priorities)]
    if len(filled) < 2:
        return filled[0] if filled else parts[0]
    joined = RowSample(
        np.concatenate([part.priorities for part in filled]),
        np.concatenate([part.labels for part in filled]),
        {name: np.concatenate([part.dense[name] for part in filled]) for name in filled[0].dense},
        {name: np.concatenate([part.sparse[name] for part in filled]) for name in filled[0].sparse},
    )
    return joined.take(np.argsort(joined.priorities, kind="stable")[:limit])
