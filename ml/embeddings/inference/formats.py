"""In which formats rows are held that are only read, and what they take. Reading them is `quantised`.

| format  | a row of D weights takes  | weights                                              |
|---------|---------------------------|------------------------------------------------------|
| float32 | 4 D bytes                 | as trained                                           |
| float16 | 2 D                       | rounded                                              |
| int8    | D, and 4 for scale, shift | 256 steps between the row's smallest and its largest |
| int4    | D / 2, and 4              | 16 steps                                             |
"""

from __future__ import annotations

from typing import Literal

Format = Literal["float32", "float16", "int8", "int4"]


def row_bytes(held_as: Format, dim: int) -> int:
    """Of a row of `dim` weights."""
    return {"float32": 4 * dim, "float16": 2 * dim, "int8": dim + 4, "int4": dim // 2 + 4}[held_as]


def fitting(asked: Format, dim: int) -> Format:
    """The format to hold rows of `dim` weights in: float16 where steps would take more, as of tables of one weight an id, and
    int8 for int4 where FBGEMM, which wants a multiple of 4, does not read it."""
    if asked == "int4" and dim % 4:
        asked = "int8"
    return asked if row_bytes(asked, dim) <= row_bytes("float16", dim) or asked == "float32" else "float16"
