"""Formats of rows for inference, and their sizes.

| format  | bytes of a row of D weights | weights                                                           |
|---------|-----------------------------|-------------------------------------------------------------------|
| float32 | 4 D                         | as trained                                                        |
| float16 | 2 D                         | rounded to float16                                                |
| int8    | D + 4                       | 256 levels between the smallest and the largest weight of the row |
| int4    | D / 2 + 4                   | 16 levels between the smallest and the largest weight of the row  |

The 4 bytes of int8 and int4 rows store the scale and the shift as float16.
"""

from __future__ import annotations

from typing import Literal

Format = Literal["float32", "float16", "int8", "int4"]


def row_bytes(format: Format, dim: int) -> int:
    """Return the size of a row of `dim` weights, in bytes."""
    return {"float32": 4 * dim, "float16": 2 * dim, "int8": dim + 4, "int4": dim // 2 + 4}[format]


def fitting(requested: Format, dim: int) -> Format:
    """Choose the format for rows of `dim` weights.

    Args:
        requested: The format that the user requested.
        dim: Number of weights in a row.

    Returns:
        The requested format, with two exceptions. float16 replaces int8 and int4 if its rows are smaller, for example in tables
        with one weight per id. int8 replaces int4 if `dim` is not a multiple of 4, which FBGEMM's kernel requires.
    """
    if requested == "int4" and dim % 4:
        requested = "int8"
    return requested if row_bytes(requested, dim) <= row_bytes("float16", dim) or requested == "float32" else "float16"
