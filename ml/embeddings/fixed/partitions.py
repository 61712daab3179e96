"""Partitions map ids to codes: a partition assigns every id to one of its classes; a family of partitions has several.

Families over the ids of a universe [0, N) (Shi et al., 2020, "Compositional Embeddings Using Complementary Partitions", arXiv
1909.02107, section 3):

| family              | codes of an id i                                             | unique |
|---------------------|--------------------------------------------------------------|--------|
| hash                | mix64(i) mod m                                               | no     |
| naive               | i                                                            | yes    |
| quotient_remainder  | i mod m, i div m                                             | yes    |
| generalised         | digits of i in the mixed radix m1, m2, ...                   | yes    |
| chinese_remainder   | i mod m1, i mod m2, ..., pairwise coprime, product at least N | yes    |

Ids are read as unsigned 64-bit numbers. An id outside the universe is hashed into it, where it may share all its codes with
another; no id is outside a universe of 2^64. `compositional` looks up rows by code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml.embeddings.rules import Family, Operation
from ml.hashing import mix64_array

ALL_IDS = 1 << 64
PATH_WIDTH = 8  # hidden units of the MLPs of operation `path`
MULTIPLE = 4  # FBGEMM needs rows of a multiple of 4 weights


@dataclass(frozen=True)
class Partitions:
    """A family of k partitions.

    Args:
        family: How codes are computed.
        universe: Number of ids, at most 2^64.
        sizes: Number of classes of each partition.

    Raises:
        ValueError: If two ids of the universe would share all codes, except for family `hash`.

    Example:
        >>> Partitions("quotient_remainder", universe=100, sizes=(10, 10)).codes(np.array([7, 42])).tolist()
        [[7, 2], [0, 4]]
    """

    family: Family
    universe: int
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if not 1 <= self.universe <= ALL_IDS or not self.sizes or min(self.sizes) < 1:
            raise ValueError(f"{self.family}: expected a universe of 1 to 2^64 ids and positive sizes, found {self}")
        if self.family in ("hash", "naive") and len(self.sizes) != 1:
            raise ValueError(f"{self.family} has one partition, found sizes {self.sizes}")
        if self.family == "quotient_remainder" and len(self.sizes) != 2:
            raise ValueError(f"quotient_remainder has two partitions, found sizes {self.sizes}")
        if self.family != "hash" and math.prod(self.sizes) < self.universe:
            raise ValueError(f"{self.family}: {self.sizes} give {math.prod(self.sizes)} codes for {self.universe} ids")
        if self.family == "chinese_remainder" and math.lcm(*self.sizes) != math.prod(self.sizes):
            raise ValueError(f"chinese_remainder: sizes {self.sizes} are not pairwise coprime")

    def codes(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the class of each id in each partition: int64 [N] to int64 [k, N], row j in [0, sizes[j])."""
        ids = ids.astype(np.int64, copy=False)
        places = self._places(ids)
        if self.family == "hash":
            return (mix64_array(ids.view(np.uint64)) % np.uint64(self.sizes[0])).astype(np.int64)[None]
        codes = np.empty((len(self.sizes), len(places)), np.int64)
        for j, size in enumerate(self.sizes):
            codes[j] = places % np.uint64(size)
            if self.family != "chinese_remainder":
                places = places // np.uint64(size)
        return codes

    def _places(self, ids: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Return ids as numbers of the universe, uint64 [N]."""
        places = ids.view(np.uint64)
        if self.universe == ALL_IDS:
            return places
        bound = np.uint64(self.universe)
        return np.where(places < bound, places, mix64_array(places) % bound)


def partitions_for(family: Family, universe: int, rows: int, parts: int = 2) -> Partitions:
    """Choose the sizes of partitions for a number of rows.

    The first partition is as large as possible, so that few ids share its rows; those of the Chinese remainder are about equal.

    Args:
        family: How codes are computed.
        universe: Number of ids.
        rows: Largest sum of the sizes.
        parts: Number of partitions, for the families that leave it open.

    Returns:
        The partitions.

    Raises:
        ValueError: If the rows cannot distinguish the ids; the message says how many rows can.

    Example:
        >>> partitions_for("quotient_remainder", universe=1000, rows=80).sizes
        (64, 16)
    """
    if parts < 1:
        raise ValueError(f"{family}: expected at least one part, found {parts}")
    if family == "hash" or (parts == 1 and family == "generalised"):
        return Partitions(family, universe, (rows,))
    if family == "naive":
        sizes: Sequence[int] = (universe,)
    elif family == "chinese_remainder":
        sizes = _coprime(rows // parts, parts)
    else:
        sizes = _radix(universe, rows, 2 if family == "quotient_remainder" else parts)
    if not sizes or sum(sizes) > rows or math.prod(sizes) < universe:
        least = universe if family == "naive" else parts * _root(universe, parts)
        raise ValueError(f"{family}: {rows} rows cannot distinguish {universe} ids, about {least} can")
    return Partitions(family, universe, tuple(sizes))


def widths_of(name: str, dim: int, partitions: Partitions, operation: Operation, narrow: int | None) -> tuple[int, ...]:
    """Return the width of the rows of each partition.

    Args:
        name: The table's name, for errors.
        dim: Dimension of the table's embeddings.
        partitions: The codes of an id.
        operation: How rows are combined.
        narrow: Width of rows before a projection, for operation `project` only.

    Returns:
        Weights of a row, for each partition.

    Raises:
        ValueError: If the operation does not fit the partitions or the dimension.
    """
    parts = len(partitions.sizes)
    if narrow is not None and operation != "project":
        raise ValueError(f"table {name!r}: dim belongs to operation project, found {operation}")
    if operation == "project":
        if narrow is None:
            raise ValueError(f"table {name!r}: operation project needs a dim: the width of rows before the projection")
        if parts != 1 or narrow % MULTIPLE or not 0 < narrow <= dim:
            raise ValueError(f"table {name!r}: project takes one partition and a dim that is a multiple of 4, at most {dim}")
        return (narrow,)
    if operation == "concat":
        if dim % (MULTIPLE * parts):
            raise ValueError(f"table {name!r}: concat of {parts} parts needs a dimension that {MULTIPLE * parts} divides")
        return (dim // parts,) * parts
    if operation == "path":
        mlp = 2 * PATH_WIDTH * dim + PATH_WIDTH
        return (dim, *[mlp + -mlp % MULTIPLE] * (parts - 1))
    return (dim,) * parts


def _radix(universe: int, rows: int, parts: int) -> Sequence[int]:
    """Return sizes: the largest first one that leaves room for the others, which are equal."""
    first = rows - (parts - 1)
    while first > 0:
        rest = _root(-(-universe // first), parts - 1)
        fits = rows - (parts - 1) * rest
        if fits >= first:
            return (first, *[rest] * (parts - 1))
        first = fits
    return ()


def _coprime(largest: int, count: int) -> Sequence[int]:
    """Return `count` pairwise coprime sizes, at most `largest`."""
    found: list[int] = []
    for size in range(largest, 1, -1):
        if all(math.gcd(size, other) == 1 for other in found):
            found.append(size)
            if len(found) == count:
                return found
    return ()


def _root(number: int, degree: int) -> int:
    """Return the smallest r with r ** degree >= number, exactly."""
    root = max(1, round(number ** (1 / degree)) - 2)
    while root**degree < number:
        root += 1
    return root
