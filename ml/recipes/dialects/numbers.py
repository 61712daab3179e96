"""Numbers as other tools write them."""

from __future__ import annotations

import math
from typing import Any


def as_number(value: Any, *, whole: bool = False) -> Any:
    """Returns the number that a value stands for, or the value itself if it is not one.

    YAML 1.1 reads `1e-4` as text, because it has no decimal point, and tools write whole numbers as `5.0`.

    Args:
        value: The value.
        whole: Whether a whole number is returned as an integer.

    Example:
        >>> as_number("1e-4"), as_number("5"), as_number(5.0, whole=True), as_number(True), as_number("many")
        (0.0001, 5.0, 5, True, 'many')
    """
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return value
    if whole and isinstance(value, float) and math.isfinite(value) and value.is_integer():
        return int(value)
    return value
