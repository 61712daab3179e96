"""A hash of a day's rows that does not depend on their order: the sum of a hash of each row, modulo 2^64.

Features and the MDS blocks that are written from them have the same hash if no row was lost or changed.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from ml.compute.kernel_cache import jit
from ml.features.hashing import feature_seed
from ml.hashing import mix64

Words = npt.NDArray[np.uint64]


def content_of(rows: int, columns: Iterable[tuple[str, npt.NDArray, npt.NDArray | None]]) -> int:
    """Hashes rows.

    Args:
        rows: Number of rows.
        columns: Name, values and lengths of each column, in any order. Values are numbers of 4 or 8 bytes: [rows] if lengths
            is None, else [sum of lengths], row after row, with lengths [rows].

    Returns:
        An integer in [0, 2^64).
    """
    total = np.zeros(rows, np.uint64)
    for name, values, lengths in columns:
        bits = np.ascontiguousarray(values)
        words = bits.view(np.uint32 if bits.itemsize == 4 else np.uint64).astype(np.uint64, copy=False)
        seed = np.uint64(feature_seed(name))
        if lengths is None:
            _add(total, words, seed)
        else:
            _add_runs(total, words, lengths.astype(np.int64, copy=False), seed)
    return int(_sum(total))


@jit
def _add(total: Words, words: Words, seed: np.uint64) -> None:
    for i in range(len(total)):
        total[i] += mix64(words[i] ^ seed)


@jit
def _add_runs(total: Words, words: Words, lengths: npt.NDArray[np.int64], seed: np.uint64) -> None:
    at = 0
    for i in range(len(total)):
        run = mix64(seed ^ np.uint64(lengths[i]))
        for _ in range(lengths[i]):
            run = mix64(run ^ words[at])
            at += 1
        total[i] += run


@jit
def _sum(total: Words) -> np.uint64:
    found = np.uint64(0)
    for i in range(len(total)):
        found += mix64(total[i])
    return found
