"""Finds the columns of JSON objects, those within objects too."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any

from ml.sketch.columns import Column, column_of_values

LEAVES = 50
"""Most values of an object that become columns. An object with more of them is a map, such as from ids to counts."""


def names_within(paths: Sequence[tuple[str, ...]], taken: Container[str]) -> dict[str, tuple[str, ...]]:
    """Name the values within an object.

    Args:
        paths: The keys that lead to each value.
        taken: Names of other columns.

    Returns:
        Name -> path of each value; none if the values cannot be columns.
    """
    columns = {"_".join(path): path for path in paths}
    is_read = len(columns) == len(paths) <= LEAVES and all(part and "." not in part for path in paths for part in path)
    return columns if is_read and not any(name in taken for name in columns) else {}


def columns_of_objects(
    objects: Sequence[Mapping[str, Any]], names: Sequence[str], decimal: bool = True
) -> tuple[list[Column], dict[str, str]]:
    """Make the columns of objects.

    Args:
        objects: The objects, [N].
        names: Their keys.
        decimal: As for `column_of_values`.

    Returns:
        The columns, and name -> path of those within objects.
    """
    columns, paths = list[Column](), dict[str, str]()
    for name in names:
        values = [value.get(name) for value in objects]
        there = [value for value in values if value is not None]
        leaves: dict[tuple[str, ...], None] = {}
        if there and all(isinstance(value, dict) for value in there):
            leaves = dict.fromkeys(path for value in there for path in _leaves((name,), value))
        within = names_within(list(leaves), {*names, *paths})
        own = [
            column_of_values(column, [_value_at(value, path) for value in objects], decimal) for column, path in within.items()
        ]
        columns += own or [column_of_values(name, values, decimal)]
        paths |= {column.name: ".".join(within[column.name]) for column in own}
    return columns, paths


def _leaves(path: tuple[str, ...], value: Any) -> Iterator[tuple[str, ...]]:
    """The paths of all values within an object that are not objects themselves."""
    if isinstance(value, dict):
        for key, held in value.items():
            yield from _leaves((*path, key), held)
    elif value is not None:
        yield path


def _value_at(value: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value
