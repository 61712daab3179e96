"""Views of Arrow arrays as numpy arrays that compiled kernels read: bytes, offsets, numbers and validity.

Nothing is copied if Arrow's layout allows it. This module does not know what the values mean.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

ALL_VALID = np.zeros(0, np.bool_)


def validity(array: pa.Array) -> np.ndarray:
    """Returns a bool array [N], True for each value that is not null, or `ALL_VALID` (length 0) if no value is null."""
    if array.null_count == 0:
        return ALL_VALID
    return flat(array.is_valid().cast(pa.uint8())).view(np.bool_)


def numbers(array: pa.Array) -> np.ndarray:
    """Returns the values [N] of an int or float array in its own dtype. Values at the positions of nulls are arbitrary."""
    kind = array.type.to_pandas_dtype()
    data = array.buffers()[1]
    if data is None or len(array) == 0:
        return np.zeros(len(array), kind)
    return np.frombuffer(data, kind, len(array), array.offset * np.dtype(kind).itemsize)


def flat(array: pa.Array, null: int | float = 0) -> np.ndarray:
    """Returns the values [N] of an int or float array in its own dtype, with nulls replaced by `null`."""
    return numbers(array.fill_null(null) if array.null_count else array)


def string_bytes(array: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Returns the UTF-8 bytes (uint8) of a string array, and the offsets into them (int32 or int64 [N + 1])."""
    width = np.dtype(np.int64 if pa.types.is_large_string(array.type) else np.int32)
    _, offsets, data = array.buffers()
    if offsets is None or len(array) == 0:
        return np.zeros(0, np.uint8), np.zeros(len(array) + 1, width)
    ends = np.frombuffer(offsets, width, len(array) + 1, array.offset * width.itemsize)
    return np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(0, np.uint8), ends
