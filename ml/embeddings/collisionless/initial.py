"""First weights of a row. They depend only on seed, table and id, so they are equal in every run and on every rank."""

from __future__ import annotations

import numpy as np

from ml.compute.kernel_cache import jit
from ml.embeddings.collisionless.row_layout import WEIGHTS
from ml.hashing import GOLDEN, mix64

_STEP = np.uint64(GOLDEN)


@jit
def draw(floats, row, dim, table_seed, key, scale):  # type: ignore[no-untyped-def]
    """Set the weights of a row, uniform in [-scale, scale).

    Args:
        floats: Rows as float32 [R, width], written.
        row: The row to set.
        dim: Number of weights, D.
        table_seed: Seed of the table, uint64.
        key: Id of the row, int64.
        scale: Bound of the weights, float32.
    """
    state = mix64(np.uint64(table_seed) ^ mix64(np.uint64(key) + _STEP))
    for d in range(dim):
        state += _STEP
        # 24 random bits: the precision of a float32 in [0, 1).
        share = np.float32(mix64(state) >> np.uint64(40)) * np.float32(2.0**-24)
        floats[row, WEIGHTS + d] = scale * (np.float32(2) * share - np.float32(1))
