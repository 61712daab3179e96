"""Data of a file with one wrong value, as a slip or a hostile user leaves it."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

WRONG: list[Any] = [
    *(None, True, -1, 0.5, 10**12, 2**63 - 1, "x", "", "\x07", ".nan", float("inf"), "x" * 300),
    *([], [[1]], [None], {}, {"name": ["x"]}, [{"name": ["x"], "value": None}], {"kind": "x"}),
]


def damaged(data: Any, draw: random.Random) -> Any:
    """Return a copy of nested mappings and lists in which one value, drawn at random, is replaced by a wrong one."""
    changed = inside = copy.deepcopy(data)
    *above, last = draw.choice(list(_places(data)))
    for key in above:
        inside = inside[key]
    inside[last] = copy.deepcopy(draw.choice(WRONG))
    return changed


def _places(data: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key, value in data.items() if isinstance(data, dict) else enumerate(data):
        yield (*above, key)
        if isinstance(value, dict | list):
            yield from _places(value, (*above, key))
