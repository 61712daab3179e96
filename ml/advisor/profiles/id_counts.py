"""Counts of ids that merge over parts and days: exact up to a limit, and beyond it for a uniform sample of the distinct ids.

Level l of the sample keeps the ids whose hash is below 2^(64 - l), each with its exact count (distinct sampling, Gibbons,
2001). The level is the smallest at which at most `limit` ids are left. It depends on the set of ids alone, so merging gives the
same counts as counting all occurrences at once, in any order. A sample can miss the most frequent ids. Beyond the limit they
are therefore counted by a Misra-Gries summary as well (Agarwal et al., "Mergeable Summaries", 2012).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ml.hashing import GOLDEN, mix64_array

LIMIT = 2**18
"""Largest number of ids of one feature whose counts are exact. Beyond it, the relative standard error is at most 0.28 %."""

HEAVY = 2**12
"""Number of counters of frequent ids beyond `LIMIT`. It is too small by at most 1 / `HEAVY` of all occurrences."""

Ints = npt.NDArray[np.int64]


def _no_ids() -> Ints:
    return np.zeros(0, np.int64)


@dataclass(frozen=True, eq=False)
class IdCounts:
    """Counts of distinct ids, all of them at level 0, or a sample of 2^-level of them.

    Attributes:
        ids: int64 [K], ascending.
        counts: Occurrences of each id, int64 [K].
        level: Level of the sample.
        heavy_ids: The most frequent ids, int64 [H], ascending; empty at level 0.
        heavy_counts: Lower bounds of their counts, int64 [H].
        heavy_error: Largest amount by which such a bound is too small.

    Example:
        >>> counts = merge_counts([count_ids(np.array([7, 7, 3])), count_ids(np.array([3, 5]))])
        >>> counts.ids.tolist(), counts.counts.tolist(), counts.distinct
        ([3, 5, 7], [2, 1, 2], 3)
    """

    ids: Ints = field(default_factory=_no_ids)
    counts: Ints = field(default_factory=_no_ids)
    level: int = 0
    heavy_ids: Ints = field(default_factory=_no_ids)
    heavy_counts: Ints = field(default_factory=_no_ids)
    heavy_error: int = 0

    @property
    def distinct(self) -> int:
        """Number of distinct ids, estimated above level 0."""
        return len(self.ids) << self.level

    @property
    def error(self) -> float:
        """Relative standard error of `distinct`, estimated from a binomial sample with probability 2^-level."""
        return sqrt((1 - 2.0**-self.level) / max(len(self.ids), 1))

    @property
    def frequent(self) -> tuple[Ints, Ints]:
        """Ids and counts among which the most frequent ones are."""
        return (self.heavy_ids, self.heavy_counts) if self.level else (self.ids, self.counts)


def count_ids(ids: npt.NDArray[Any]) -> IdCounts:
    """Counts ids, int64 [V]. The result is exact; `merge_counts` applies the limit."""
    distinct, counts = count_values(ids)
    return IdCounts(distinct, counts)


def count_values(values: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], Ints]:
    """Returns the distinct integers of `values` [V], ascending, and the number of times that each occurs."""
    found = pa.array(values).value_counts()
    distinct = found.field(0).to_numpy(zero_copy_only=False)
    order = np.argsort(distinct)
    return distinct[order], found.field(1).to_numpy(zero_copy_only=False)[order]


def merge_counts(parts: Sequence[IdCounts], limit: int = LIMIT, heavy: int = HEAVY) -> IdCounts:
    """Merges counts of the same feature.

    Args:
        parts: Counts of disjoint sets of rows.
        limit: Largest number of ids to keep.
        heavy: Largest number of frequent ids to keep above level 0.
    """
    level = max((part.level for part in parts), default=0)
    kept = [_at_level(part.ids, part.counts, level if part.level < level else 0) for part in parts]
    ids, counts = sum_by_key(kept)
    if len(ids) > limit:
        level = max(level, sample_level(hash_ids(ids), limit))
        ids, counts = _at_level(ids, counts, level)
    if not level:
        return IdCounts(ids, counts)
    heavy_ids, heavy_counts = sum_by_key([part.frequent for part in parts])
    error = sum(part.heavy_error for part in parts)
    if len(heavy_ids) > heavy:
        surplus = int(np.partition(heavy_counts, -heavy - 1)[-heavy - 1])  # the largest count that is not kept
        left = heavy_counts > surplus
        heavy_ids, heavy_counts, error = heavy_ids[left], heavy_counts[left] - surplus, error + surplus
    return IdCounts(ids, counts, level, heavy_ids, heavy_counts, error)


def sum_by_key(parts: Sequence[tuple[npt.NDArray[Any], Ints]]) -> tuple[npt.NDArray[Any], Ints]:
    """Adds the counts of equal keys. Each part has ascending keys [K] and their counts [K], and so has the result."""
    keys, counts = np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
    if len(parts) == 1 or not len(keys):
        return keys, counts
    order = np.argsort(keys, kind="stable")  # merges the ascending runs in linear time
    keys = keys[order]
    first = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
    return keys[first], np.add.reduceat(counts[order], first)


def hash_ids(ids: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """Hashes integers [K] to uint64 [K] for a sample of distinct ones."""
    return mix64_array(ids.astype(np.int64, copy=False).view(np.uint64) + np.uint64(GOLDEN))


def sample_level(hashes: npt.NDArray[np.uint64], limit: int) -> int:
    """Returns the smallest level that keeps at most `limit` of distinct hashes, uint64 [K] with K > limit."""
    return 65 - int(np.partition(hashes, limit)[limit]).bit_length()


def in_sample(hashes: npt.NDArray[np.uint64], level: int) -> npt.NDArray[np.bool_]:
    """Returns which hashes a level keeps."""
    return hashes < np.uint64(2 ** (64 - level)) if level else np.ones(len(hashes), np.bool_)


def _at_level(ids: Ints, counts: Ints, level: int) -> tuple[Ints, Ints]:
    if not level:
        return ids, counts
    kept = in_sample(hash_ids(ids), level)
    return ids[kept], counts[kept]
