"""Histograms of ids: how often a feature is missing, out of vocabulary, or in one of a fixed number of buckets of values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ml.compute.kernel_cache import jit
from ml.schema import FIRST_ID, MISSING_ID, OOV_ID

BUCKETS = 256
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Histogram:
    """Counts of the ids of one feature. Histograms of the same feature can be added.

    Args:
        missing: Number of ids that are `MISSING_ID`.
        out_of_vocabulary: Number of ids that are `OOV_ID`.
        buckets: Counts of all other ids, by id modulo `BUCKETS`. A multi-valued feature counts each of its ids.

    Example:
        >>> found = histogram_of(np.array([0, 1, 2, 2])) + histogram_of(np.array([258]))
        >>> found.missing, found.out_of_vocabulary, found.known, found.buckets[2]
        (1, 1, 3, 3)
    """

    missing: int
    out_of_vocabulary: int
    buckets: tuple[int, ...]

    def __add__(self, other: Histogram) -> Histogram:
        buckets = tuple(x + y for x, y in zip(self.buckets, other.buckets, strict=True))
        return Histogram(self.missing + other.missing, self.out_of_vocabulary + other.out_of_vocabulary, buckets)

    @property
    def known(self) -> int:
        """Number of ids that are neither missing nor out of vocabulary."""
        return sum(self.buckets)

    @property
    def counts(self) -> tuple[int, ...]:
        """All counts: missing, out of vocabulary, then the buckets."""
        return (self.missing, self.out_of_vocabulary, *self.buckets)


def histogram_of(ids: Ids) -> Histogram:
    """Counts ids, int64 [V]."""
    counts = _count(ids)
    return Histogram(int(counts[MISSING_ID]), int(counts[OOV_ID]), tuple(counts[FIRST_ID:].tolist()))


@jit
def _count(ids: Ids) -> Ids:
    counts = np.zeros(FIRST_ID + BUCKETS, np.int64)
    for i in range(len(ids)):
        value = ids[i]
        reserved = (value == MISSING_ID) | (value == OOV_ID)
        counts[value if reserved else FIRST_ID + (value & (BUCKETS - 1))] += 1
    return counts
