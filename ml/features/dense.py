"""Dense features: one compiled pass turns numbers into finite float32 values by fill, clip, log1p and scale."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa

from ml.catalog.spec import DenseColumn
from ml.compute.kernel_cache import jit
from ml.features.buffers import numbers, validity

_LARGEST = float(np.finfo(np.float32).max)


@jit(inline="always")
def finite_float32(x, fill, low, high, log1p, scale):  # type: ignore[no-untyped-def]
    """Returns one dense value (float32) of a number (float64). NaN and infinities count as missing."""
    if not math.isfinite(x):
        x = fill
    x = min(max(x, low), high)
    if log1p:
        x = math.log1p(max(x, 0.0))
    return np.float32(min(max(x * scale, -_LARGEST), _LARGEST))


@jit
def _dense(  # type: ignore[no-untyped-def]
    values: np.ndarray, valid: np.ndarray, fill: float, low: float, high: float, log1p: bool, scale: float
):
    out = np.empty(len(values), np.float32)
    for i in range(len(values)):
        known = len(valid) == 0 or valid[i]
        x = np.float64(values[i]) if known else math.nan
        out[i] = finite_float32(x, fill, low, high, log1p, scale)
    return out


def dense_values(column: DenseColumn, values: pa.Array) -> np.ndarray:
    """Computes a dense feature.

    Args:
        column: The feature as the catalog entry declares it.
        values: Arrow int, float or bool array [N]. Null, NaN and infinities count as missing.

    Returns:
        float32 [N], always finite. Results beyond the range of float32 are clipped to its largest or smallest finite number.
    """
    low, high = column.clip or (None, None)
    wide = values.cast(pa.int64()) if pa.types.is_boolean(values.type) else values
    return _dense(
        numbers(wide),
        validity(wide),
        column.fill,
        -math.inf if low is None else float(low),
        math.inf if high is None else float(high),
        column.log1p,
        column.scale,
    )
