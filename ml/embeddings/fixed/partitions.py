"""Partitions of ids. A partition assigns each id to one of its classes; an id's code is the number of its class.

A family of partitions covers the ids of a universe [0, N) (Shi et al., 2020, "Compositional Embeddings Using Complementary
Partitions", arXiv 1909.02107, section 3). In a unique family, no two ids of the universe have the same codes:

| family              | codes of an id i                                             | unique |
|---------------------|--------------------------------------------------------------|--------|
| hash                | mix64(i) mod m                                               | no     |
| naive               | i                                                            | yes    |
| quotient_remainder  | i mod m, i div m                                             | yes    |
| generalised         | digits of i in the mixed radix m1, m2, ...                   | yes    |
| chinese_remainder   | i mod m1, i mod m2, ... for pairwise coprime sizes           | yes    |

Ids are read as unsigned 64-bit numbers. An id outside the universe is hashed into it and can then share all codes with another
id. A universe of 2^64 contains all ids. `compositional` looks up rows by code.
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
        ValueError: If the universe or a size is out of range, or the number of sizes does not match the family. For families
            other than `hash`, also if two ids of the universe would share all codes.

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
        """Compute the codes of ids.

        Args:
            ids: Any ids, int64 [N].

        Returns:
            int64 [k, N]; row j has the class of each id in partition j, in [0, sizes[j]).
        """
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
        """Map ids to numbers in the universe, uint64 [N]."""
        places = ids.view(np.uint64)
        if self.universe == ALL_IDS:
            return places
        bound = np.uint64(self.universe)
        return np.where(places < bound, places, mix64_array(places) % bound)


def partitions_for(family: Family, universe: int, rows: int, parts: int = 2) -> Partitions:
    """Choose the sizes of partitions for a number of rows.

    The first partition is as large as possible, so that few ids share its rows. For family `chinese_remainder`, all sizes are
    about equal.

    Args:
        family: How codes are computed.
        universe: Number of ids.
        rows: Maximum sum of the sizes.
        parts: Number of partitions, for families `generalised` and `chinese_remainder`.

    Returns:
        The partitions.

    Raises:
        ValueError: If the rows cannot distinguish all ids of the universe; the message says how many rows are needed.

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
        raise ValueError(f"{family}: {rows} rows cannot distinguish {universe} ids, about {least} are needed")
    return Partitions(family, universe, tuple(sizes))


def widths_of(name: str, dim: int, partitions: Partitions, operation: Operation, narrow: int | None) -> tuple[int, ...]:
    """Return the row width of each partition.

    Args:
        name: Name of the table, for error messages.
        dim: Embedding dimension of the table.
        partitions: The table's partitions.
        operation: Operation that combines the rows.
        narrow: Row width before the projection; for operation `project` only.

    Returns:
        Number of weights in a row, by partition.

    Raises:
        ValueError: If the operation does not match the partitions or the dimension.
    """
    parts = len(partitions.sizes)
    if narrow is not None and operation != "project":
        raise ValueError(f"table {name!r}: dim is only allowed with operation project, found operation {operation}")
    if operation == "project":
        if narrow is None:
            raise ValueError(f"table {name!r}: operation project requires dim, the row width before the projection")
        if parts != 1 or narrow % MULTIPLE or not 0 < narrow <= dim:
            raise ValueError(
                f"table {name!r}: operation project requires one partition and a dim that is a multiple of {MULTIPLE} and at "
                f"most {dim}, found {parts} partitions and dim {narrow}"
            )
        return (narrow,)
    if operation == "concat":
        if dim % (MULTIPLE * parts):
            raise ValueError(
                f"table {name!r}: concat of {parts} parts requires a dimension that is a multiple of {MULTIPLE * parts}, "
                f"found {dim}"
            )
        return (dim // parts,) * parts
    if operation == "path":
        mlp = 2 * PATH_WIDTH * dim + PATH_WIDTH
        return (dim, *[mlp + -mlp % MULTIPLE] * (parts - 1))
    return (dim,) * parts


def _radix(universe: int, rows: int, parts: int) -> Sequence[int]:
    """Return the sizes with the largest possible first size; the other sizes are equal. Empty if there are none."""
    first = rows - (parts - 1)
    while first > 0:
        rest = _root(-(-universe // first), parts - 1)
        fits = rows - (parts - 1) * rest
        if fits >= first:
            return (first, *[rest] * (parts - 1))
        first = fits
    return ()


def _coprime(largest: int, count: int) -> Sequence[int]:
    """Return `count` pairwise coprime sizes, each at most `largest`. Empty if there are none."""
    found: list[int] = []
    for size in range(largest, 1, -1):
        if all(math.gcd(size, other) == 1 for other in found):
            found.append(size)
            if len(found) == count:
                return found
    return ()


def _root(number: int, degree: int) -> int:
    """Return the smallest integer r with r ** degree >= number."""
    root = max(1, round(number ** (1 / degree)) - 2)
    while root**degree < number:
        root += 1
    return root
