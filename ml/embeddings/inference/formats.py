"""The formats of rows that are only read, and their sizes.

| format  | bytes of a row of D weights     | weights                                                   |
|---------|---------------------------------|-----------------------------------------------------------|
| float32 | 4 D                             | as trained                                                |
| float16 | 2 D                             | rounded                                                   |
| int8    | D, and 4 for scale and shift    | 256 steps between the row's smallest and largest weight   |
| int4    | D / 2, and 4                    | 16 steps                                                  |
"""

from __future__ import annotations

from typing import Literal

Format = Literal["float32", "float16", "int8", "int4"]


def row_bytes(format: Format, dim: int) -> int:
    """Return the bytes of a row of `dim` weights."""
    return {"float32": 4 * dim, "float16": 2 * dim, "int8": dim + 4, "int4": dim // 2 + 4}[format]


def fitting(requested: Format, dim: int) -> Format:
    """Choose the format for rows of `dim` weights.

    Returns:
        The requested format, with two exceptions: float16 where it takes less than the requested one, as for tables of one
        weight per id, and int8 for int4 where `dim` is not a multiple of 4, which FBGEMM's kernel needs.
    """
    if requested == "int4" and dim % 4:
        requested = "int8"
    return requested if row_bytes(requested, dim) <= row_bytes("float16", dim) or requested == "float32" else "float16"
