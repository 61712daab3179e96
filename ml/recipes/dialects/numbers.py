"""Numbers as other tools write them."""

from __future__ import annotations

import math
from typing import Any


def as_number(value: Any) -> Any:
    """Returns the number that a value stands for, or the value itself if it is not one.

    YAML 1.1 reads `1e-4` as text, because it has no decimal point, and tools write whole numbers as `5.0`.

    Example:
        >>> as_number("1e-4"), as_number(5.0), as_number(True), as_number("many")
        (0.0001, 5, True, 'many')
    """
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return value
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        return int(value)
    return value
