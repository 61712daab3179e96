"""Counts of dense values that merge over parts and days: exact up to a limit, and in logarithmic bins beyond it.

A float32 becomes a uint32 key that sorts as the value does. Level l clears the l lowest bits of the keys, so that a key counts
a bin of values whose relative width is 2^(l - 23), as in DDSketch (Masson, Rim and Lee, 2019). The level is the smallest at
which at most `limit` keys are left. It depends on the set of values alone, so merging gives the same counts as counting all
values at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import sqrt

import numpy as np
import numpy.typing as npt

from ml.advisor.profiles.id_counts import Ints, count_values, hash_ids, in_sample, sample_level, sum_by_key

LIMIT = 2**16
"""Largest number of distinct values of one feature whose counts are exact. At most 16 bits are cleared for it, so
that a quantile beyond it has a relative error of at most 2^-8."""

DISTINCT_LIMIT = 2**14
"""Size of the sample of distinct values beyond `LIMIT`; the relative standard error of their number is at most 1.1 %."""

Keys = npt.NDArray[np.uint32]
_SIGN = np.uint32(1 << 31)


@dataclass(frozen=True, eq=False)
class ValueCounts:
    """Counts of the values of one dense feature.

    Attributes:
        keys: Keys of values or bins, uint32 [K], ascending.
        counts: Rows of each, int64 [K].
        level: Number of low bits that are cleared in the keys.
        sample: Keys of a sample of the distinct values, uint32, ascending; empty at level 0, where `keys` has all of them.
        sample_level: A distinct value is in the sample with probability 2^-sample_level.

    Example:
        >>> counts = count_floats(np.array([1, -2, 1, 4], np.float32))
        >>> counts.values.tolist(), counts.counts.tolist(), counts.quantiles((0.5, 1.0)).tolist()
        ([-2.0, 1.0, 4.0], [1, 2, 1], [1.0, 4.0])
    """

    keys: Keys = field(default_factory=lambda: np.zeros(0, np.uint32))
    counts: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    level: int = 0
    sample: Keys = field(default_factory=lambda: np.zeros(0, np.uint32))
    sample_level: int = 0

    @property
    def values(self) -> npt.NDArray[np.float32]:
        """The values, or the middles of the bins, float32 [K], ascending."""
        if not self.level:
            return _floats(self.keys)
        middles = _floats(self.keys | np.uint32(1 << (self.level - 1)))
        return np.where(np.abs(middles) < np.finfo(np.float32).tiny, np.float32(0), middles)  # the bins next to zero

    @property
    def error(self) -> float:
        """Relative error of a value of `values`: half the relative width of a bin."""
        return 2.0 ** (self.level - 24) if self.level else 0.0

    @property
    def distinct(self) -> int:
        """Number of distinct values, estimated above level 0."""
        return len(self.sample) << self.sample_level if self.level else len(self.keys)

    @property
    def distinct_error(self) -> float:
        """Relative standard error of `distinct`."""
        return sqrt((1 - 2.0**-self.sample_level) / max(len(self.sample), 1)) if self.level else 0.0

    def quantiles(self, probabilities: Sequence[float]) -> npt.NDArray[np.float32]:
        """Returns the smallest value v of each probability p such that at least a share p of the rows is at most v."""
        upto = np.cumsum(self.counts)
        needed = np.maximum(np.ceil(np.asarray(probabilities) * upto[-1] - 1e-9), 1)
        return self.values[np.searchsorted(upto, needed)]


def count_floats(values: npt.NDArray[np.float32]) -> ValueCounts:
    """Counts finite values, float32 [N]. -0.0 counts as 0.0. The result is exact; `merge_values` applies the limit."""
    bits, counts = count_values((values + np.float32(0)).view(np.uint32))
    keys = np.where(bits & _SIGN, ~bits, bits | _SIGN)
    order = np.argsort(keys)
    return ValueCounts(keys[order], counts[order])


def merge_values(parts: Sequence[ValueCounts], limit: int = LIMIT, distinct_limit: int = DISTINCT_LIMIT) -> ValueCounts:
    """Merges counts of the same feature.

    Args:
        parts: Counts of disjoint sets of rows.
        limit: Largest number of keys to keep.
        distinct_limit: Largest size of the sample of distinct values.
    """
    level = max((part.level for part in parts), default=0)
    keys, counts = sum_by_key([_at_level(part.keys, part.counts, level) for part in parts])
    while len(keys) > limit:
        level += 1
        keys, counts = _at_level(keys, counts, level)
    if not level:
        return ValueCounts(keys, counts)
    sample_bits = max(part.sample_level for part in parts)
    sample = np.unique(np.concatenate([part.sample if part.level else part.keys for part in parts]))
    hashes = hash_ids(sample)
    kept = in_sample(hashes, sample_bits)
    if np.count_nonzero(kept) > distinct_limit:
        sample_bits = max(sample_bits, sample_level(hashes, distinct_limit))
        kept = in_sample(hashes, sample_bits)
    return ValueCounts(keys, counts, level, sample[kept], sample_bits)


def _at_level(keys: Keys, counts: Ints, level: int) -> tuple[Keys, Ints]:
    if not level or not len(keys):
        return keys, counts
    bins = keys & np.uint32((0xFFFFFFFF << level) & 0xFFFFFFFF)
    first = np.flatnonzero(np.concatenate(([True], bins[1:] != bins[:-1])))
    return bins[first], np.add.reduceat(counts, first)


def _floats(keys: Keys) -> npt.NDArray[np.float32]:
    return np.where(keys & _SIGN, keys ^ _SIGN, ~keys).astype(np.uint32).view(np.float32)
