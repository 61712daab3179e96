"""Which keys the lines of JSON files have.

A key that is absent from a line is a missing value. A key that is absent from every line is a wrong name in the catalog.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute creates its functions at import, so type checkers do not see them)

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ml.catalog.value_paths import EACH, KeyPath
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
    absent: list[str] = []
    for name, path in layout.key_paths.items():
        column = table[name]
        if EACH in path:
            column = pc.list_flatten(column)
            path = path if len(column) else path[: path.index(EACH)]  # empty lists do not say which keys objects would have
        if column.null_count == len(column) and not _has(path, lines):
            absent.append(name)
    return frozenset(absent)


def keys_in(lines: Lines) -> list[str]:
    """Lists the keys of the first lines, in the order in which they occur; keys within objects as paths, such as `user.id`."""
    return list(dict.fromkeys(key for line in range(min(SAMPLE, len(lines))) for key in paths_in(_parsed(lines.text(line)))))


def paths_in(value: Mapping[str, Any]) -> list[str]:
    """Lists the keys of an object, each with the paths of the values within it, those in lists of objects too."""
    found: dict[str, None] = {}
    for key, held in value.items():
        objects = [one for one in (held if isinstance(held, list) else [held]) if _is_object(one)]
        found |= dict.fromkeys([key, *(f"{key}.{path}" for one in objects for path in paths_in(one))])
    return list(found)


def value_at(value: Any, path: KeyPath) -> Any:
    """Returns the value at the end of a path: None if a key is absent, `NO_OBJECT` if a value before it is no object.

    Beyond `EACH`, it is a list of the values in each object of the list there, and `NO_OBJECT` if there is no list.
    """
    for depth, key in enumerate(path):
        if value is None:
            return None
        if key is EACH:
            return [value_at(one, path[depth + 1 :]) for one in value] if isinstance(value, list) else NO_OBJECT
        if not _is_object(value):
            return NO_OBJECT
        value = value.get(key)
    return value


def without_found(layout: Layout, columns: Iterable[str], lines: Lines) -> frozenset[str]:
    """Returns the columns whose key is in none of the lines."""
    return frozenset(column for column in columns if not _has(layout.key_paths[column], lines))


def _has(path: KeyPath, lines: Lines) -> bool:
    """Whether a line has the last key of a path in its place. Parses the first lines, and those with the key's text."""
    spelled = {json.dumps(path[-1], ensure_ascii=ascii).encode() for ascii in (True, False)}
    places = [line for text in spelled for line in _lines_with(text, lines)]
    first = range(min(SAMPLE, len(lines)))  # a key can be spelled with escapes
    return any(_reaches(_parsed(lines.text(line)), path) for line in (*places, *first))


def _reaches(value: Any, path: KeyPath) -> bool:
    """Whether a value, or an element of a list on the way, has the last key of a path in its place."""
    key, rest = path[0], path[1:]
    if key is EACH:
        return isinstance(value, list) and any(_reaches(one, rest) for one in value)
    return _is_object(value) and key in value and (not rest or _reaches(value[key], rest))


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
