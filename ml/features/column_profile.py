"""Statistics of one column: its type, its missing and non-finite values, and its range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa


@dataclass(frozen=True)
class ColumnProfile:
    """Statistics of one column of N rows. The sum of two profiles is the profile of the concatenated columns.

    Args:
        type: Arrow's name of the column's type; both names if the parts of a column have different types.
        nulls: Number of missing values.
        not_finite: Number of values that are NaN or infinite.
        min: Smallest finite value; None if there is none, or if the column is not numeric.
        max: Largest finite value; None in the same cases.

    Example:
        >>> column_profile(pa.array([1.5, None])) + column_profile(pa.array([float("nan"), 4.0]))
        ColumnProfile(type='double', nulls=1, not_finite=1, min=1.5, max=4.0)
    """

    type: str
    nulls: int
    not_finite: int = 0
    min: float | None = None
    max: float | None = None

    def __add__(self, other: ColumnProfile) -> ColumnProfile:
        kind = self.type if self.type == other.type else f"{self.type} and {other.type}"
        lows = [low for low in (self.min, other.min) if low is not None]
        highs = [high for high in (self.max, other.max) if high is not None]
        nulls, not_finite = self.nulls + other.nulls, self.not_finite + other.not_finite
        return ColumnProfile(kind, nulls, not_finite, min(lows, default=None), max(highs, default=None))


def column_profile(column: pa.Array) -> ColumnProfile:
    """Measures a column [N]. Lists are measured by their elements. For strings, only missing values are counted."""
    kind = column.type.value_type if isinstance(column, pa.DictionaryArray) else column.type
    if pa.types.is_list(kind):
        parts = column_profile(column.flatten())
        return ColumnProfile(str(kind), column.null_count + parts.nulls, parts.not_finite, parts.min, parts.max)
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        return ColumnProfile(str(kind), column.null_count)
    return number_profile(str(kind), column.drop_null().to_numpy(zero_copy_only=False), column.null_count)


def number_profile(kind: str, values: npt.NDArray[Any], nulls: int = 0) -> ColumnProfile:
    """Measures numbers [N] without missing values; `nulls` is the number of missing values that were removed."""
    finite = np.isfinite(values)
    known = values if finite.all() else values[finite]
    if not known.size:
        return ColumnProfile(kind, nulls, values.size)
    return ColumnProfile(kind, nulls, values.size - known.size, known.min().item(), known.max().item())
