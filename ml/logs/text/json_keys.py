"""Which keys the lines of JSON files have.

A key that is absent from a line is a missing value. A key that is absent from every line is a wrong name in the catalog.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

import pyarrow as pa

from ml.logs.text.layout import Layout
from ml.logs.text.lines import Lines

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
    names = layout.original_names
    return frozenset(
        name for name in table.column_names if table[name].null_count == len(table) and not _has(names[name], lines)
    )


def keys_in(lines: Lines) -> list[str]:
    """Lists the keys of the first lines, in the order in which they occur."""
    return list(dict.fromkeys(key for line in range(min(SAMPLE, len(lines))) for key in _keys(lines.text(line))))


def without_found(layout: Layout, columns: Iterable[str], lines: Lines) -> frozenset[str]:
    """Returns the columns whose key is in none of the lines."""
    return frozenset(column for column in columns if not _has(layout.original_names[column], lines))


def _has(key: str, lines: Lines) -> bool:
    """Whether a line has the key, at its top level and not within a value. Parses the first lines, and lines with the text."""
    spelled = {json.dumps(key, ensure_ascii=ascii).encode() for ascii in (True, False)}
    places = [line for text in spelled for line in _lines_with(text, lines)]
    first = range(min(SAMPLE, len(lines)))  # a key can be spelled with escapes
    return any(key in _keys(lines.text(line)) for line in (*places, *first))


def _lines_with(text: bytes, lines: Lines) -> Iterator[int]:
    start = 0
    for _ in range(SAMPLE):
        found = lines.data.find(text, start)
        if found < 0:
            return
        line = int(lines.ends.searchsorted(found))
        yield line
        start = int(lines.ends[line]) + 1


def _keys(text: bytes) -> list[str]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return list(value) if isinstance(value, dict) else []
