"""Which keys the lines of JSON files have.

A key that is absent from a line is a missing value. A key that is absent from every line is a wrong name in the catalog.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from ml.logs.text.layout import Layout
from ml.logs.text.lines import Lines

NO_OBJECT = object()
"""In place of a value that a path does not reach, because a value before it is no object."""
SAMPLE = 200  # lines that are parsed to see which keys they have


def absent_columns(layout: Layout, table: pa.Table, lines: Lines) -> frozenset[str] | None:
    """Lists the columns whose key no line has.

    Args:
        layout: Maps columns to keys.
        table: The rows of a block, [N].
        lines: The block's lines. They are searched only for columns without a single value.

    Returns:
        Names of columns; None if the block has no rows.
    """
    if not table.num_rows:
        return None
    paths = layout.key_paths
    return frozenset(
        name for name in table.column_names if table[name].null_count == len(table) and not _has(paths[name], lines)
    )


def keys_in(lines: Lines) -> list[str]:
    """Lists the keys of the first lines, in the order in which they occur; keys within objects as paths, such as `user.id`."""
    return list(dict.fromkeys(key for line in range(min(SAMPLE, len(lines))) for key in paths_in(_parsed(lines.text(line)))))


def paths_in(value: Mapping[str, Any]) -> list[str]:
    """Lists the keys of an object, each with the paths of the values within it."""
    found: list[str] = []
    for key, held in value.items():
        found += [key, *(f"{key}.{path}" for path in (paths_in(held) if _is_object(held) else ()))]
    return found


def value_at(value: Any, path: Sequence[str]) -> Any:
    """Returns the value at the end of a path of keys: None if a key is absent, `NO_OBJECT` if one before it is no object."""
    for key in path:
        if value is None:
            return None
        if not _is_object(value):
            return NO_OBJECT
        value = value.get(key)
    return value


def without_found(layout: Layout, columns: Iterable[str], lines: Lines) -> frozenset[str]:
    """Returns the columns whose key is in none of the lines."""
    return frozenset(column for column in columns if not _has(layout.key_paths[column], lines))


def _has(path: Sequence[str], lines: Lines) -> bool:
    """Whether a line has the last key of a path in its place. Parses the first lines, and those with the key's text."""
    spelled = {json.dumps(path[-1], ensure_ascii=ascii).encode() for ascii in (True, False)}
    places = [line for text in spelled for line in _lines_with(text, lines)]
    first = range(min(SAMPLE, len(lines)))  # a key can be spelled with escapes
    objects = (value_at(_parsed(lines.text(line)), path[:-1]) for line in (*places, *first))
    return any(_is_object(value) and path[-1] in value for value in objects)


def _lines_with(text: bytes, lines: Lines) -> Iterator[int]:
    start = 0
    for _ in range(SAMPLE):
        found = lines.data.find(text, start)
        if found < 0:
            return
        line = int(lines.ends.searchsorted(found))
        yield line
        start = int(lines.ends[line]) + 1


def _parsed(text: bytes) -> dict[str, Any]:
    """The object of a line; an empty one if the line is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if _is_object(value) else {}


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)
