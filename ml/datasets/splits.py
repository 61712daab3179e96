"""Assigns the rows of a day to splits, and orders them within windows. Define arithmetic here, and no input or output.

A *window* is `window_blocks * block_rows` consecutive rows of the day, in time order. The rows of a window that belong to one
split are permuted and cut into *blocks* of `block_rows` rows; the last block of a window may have fewer. A reader that shuffles
blocks therefore mixes rows, and a reader that takes the windows in sequence and sorts each has the exact time order. Every
choice depends only on the position of a row in the day, not on the division of work into tasks.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ml.catalog.spec import Splits
from ml.hashing import mix64_array

HASH = "xxh3_64"  # algorithm of the hash of every shard; it is stored in the index and checked at every read
SPLITS = ("train", "validation", "test")
TRAIN, VALIDATION, TEST = range(3)


def hash_positions(seed: int, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """Returns a seeded hash of row positions [N], uint64. Distinct positions have distinct hashes."""
    return mix64_array(positions.astype(np.uint64) + np.uint64(seed))


def split_of(positions: npt.NDArray[np.int64], day_rows: int, splits: Splits, seed: int) -> npt.NDArray[np.int8]:
    """Assigns rows to splits.

    If rows are split by time, the last rows of the day are test, and the rows before them validation.

    Args:
        positions: int64 [N], positions of the rows in the day.
        day_rows: Number of rows of the day.
        splits: The catalog entry's settings of splits.
        seed: Seed of a split by hash.

    Returns:
        int8 [N], indices into `SPLITS`.
    """
    code = np.full(positions.shape, TRAIN, np.int8)
    if splits.by == "time":
        test, validation = round(day_rows * splits.test), round(day_rows * splits.validation)
        code[positions >= day_rows - test - validation] = VALIDATION
        code[positions >= day_rows - test] = TEST
    else:
        share = (hash_positions(seed, positions) >> np.uint64(11)) * 2.0**-53
        code[share < splits.test + splits.validation] = VALIDATION
        code[share < splits.test] = TEST
    return code
