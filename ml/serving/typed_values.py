"""Values of requests as Arrow values of the types of their columns, without the truncation of `pyarrow.array`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa


def typed_array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Return values as an array of a type.

    Args:
        values: Numbers, strings and so on, None, or lists of them if `kind` is a list.
        kind: The type of the column.

    Raises:
        pyarrow.ArrowInvalid: A value does not fit, such as 3.5 in a column of ints, which `pyarrow.array` truncates to 3.
        pyarrow.ArrowTypeError: A value has another type.
        OverflowError: An int is too large.

    Example:
        >>> typed_array([3.0, None], pa.int64()).to_pylist()
        [3, None]
    """
    array = pa.array(values, kind)
    for value in values if pa.types.is_integer(_element(kind)) else ():
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, float) and not number.is_integer():
                raise pa.ArrowInvalid(f"{number} is not an integer")
    return array


def _element(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_list(kind) else kind
