"""Where a row of a day goes: its split, its window, its place among the window's blocks. Arithmetic only, no files.

A *window* is `window_blocks * block_rows` consecutive rows of the day, in time order. The rows of a window that
belong to one split are permuted and cut into *blocks* of `block_rows`; the last block of a window may be shorter.
So a reader that mixes blocks mixes rows, one that takes windows in sequence and sorts inside has the exact time
order, and every choice depends on the row's position in the day alone, never on how the work was divided.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ml.catalog.spec import Splits
from ml.hashing import mix64_array

HASH = "xxh3_64"  # of every shard, in its index, checked by who reads it
SPLITS = ("train", "validation", "test")
TRAIN, VALIDATION, TEST = range(3)


def hash_positions(seed: int, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """Returns a seeded hash of row positions [N], uint64. Distinct positions have distinct hashes."""
    return mix64_array(positions.astype(np.uint64) + np.uint64(seed))


def split_of(positions: npt.NDArray[np.int64], day_rows: int, splits: Splits, seed: int) -> npt.NDArray[np.int8]:
    """Index into `SPLITS` of each position [N]. By time the day's last rows are test, and those before them validation."""
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
