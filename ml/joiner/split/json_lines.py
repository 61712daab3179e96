"""Formats Arrow rows as JSON lines, column by column, and corrupts lines on purpose."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute creates its functions at import, so type checkers do not see them)

from __future__ import annotations

import json
import re
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


def json_lines(rows: pa.Table) -> pa.Array:
    r"""Formats rows as JSON objects, one a line.

    Missing values become `null`. Numbers are written so that they are read back exactly.

    Args:
        rows: N rows with columns of integers, finite floats, strings and bools, or of lists of them.

    Returns:
        Large strings [N], each ended by a line feed.

    Example:
        >>> json_lines(pa.table({"n": [1, None], "s": ['a"', "b"], "l": [[1, None], None]})).to_pylist()
        ['{"n":1,"s":"a\\"","l":[1,null]}\n', '{"n":null,"s":"b","l":null}\n']
    """
    text = pa.large_string()
    pieces: list[pa.Array | pa.Scalar] = []
    for n, name in enumerate(rows.column_names):
        pieces.append(pa.scalar(("," if n else "{") + json.dumps(name) + ":", text))
        column = rows[name].combine_chunks()
        pieces.append(_texts(column))
    joined = pc.binary_join_element_wise(*pieces, pa.scalar("}\n", text), pa.scalar("", text))
    return joined.combine_chunks() if isinstance(joined, pa.ChunkedArray) else joined


def text_of(lines: pa.Array, start: int, stop: int) -> bytes:
    """Returns the lines [start, stop) of large strings as bytes, without a loop over them."""
    if start == stop:
        return b""
    _, offsets, data = lines.buffers()
    ends = np.frombuffer(offsets, np.int64)[lines.offset :]
    return data[int(ends[start]) : int(ends[stop])].to_pybytes()


def corrupt_lines(lines: pa.Array, bad: NDArray[np.bool_], key: str, time: str, rng: np.random.Generator) -> list[bytes]:
    """Corrupts some lines, each in one of the ways of `KINDS`.

    Args:
        lines: Large strings [N], each ended by a line feed.
        bad: Which lines to corrupt, bool [N].
        key: Column of the key.
        time: Column of the event time.
        rng: Draws the kinds.

    Returns:
        Pieces of text, in order, that together hold all lines.
    """
    kinds = tuple(KINDS.values())
    pieces, done = [], 0
    for row in np.flatnonzero(bad).tolist():  # a loop over the few bad lines
        line = lines[row].as_py().encode()[:-1]
        pieces += [text_of(lines, done, row), kinds[rng.integers(len(kinds))](line, key, time) + b"\n"]
        done = row + 1
    return [*pieces, text_of(lines, done, len(lines))]


def _without(line: bytes, column: str, value: bytes) -> bytes:
    name = json.dumps(column).encode()
    return re.sub(re.escape(name) + b":[^,}]*", lambda _: name + b":" + value, line, count=1)


KINDS: dict[str, Callable[[bytes, str, str], bytes]] = {
    "truncated": lambda line, key, time: line[: len(line) // 2],
    "not an object": lambda line, key, time: b"timeout " + line[1:],
    "time is text": lambda line, key, time: _without(line, time, b'"soon"'),
    "without a time": lambda line, key, time: _without(line, time, b"null"),
    "without a key": lambda line, key, time: _without(line, key, b"null"),
    "not UTF-8": lambda line, key, time: line[:-1] + b',"\xff":1}',
}
"""Ways in which lines are corrupt. Each makes the line useless to the joiner."""


def _texts(column: pa.Array) -> pa.Array:
    """Returns the JSON text of each value, large strings [N]."""
    text = pa.large_string()
    if pa.types.is_list(column.type):
        ends = np.append(0, np.cumsum(pc.list_value_length(column).fill_null(0).to_numpy()))
        lists = pa.LargeListArray.from_arrays(pa.array(ends, pa.int64()), _texts(column.flatten()))
        opening, comma, closing, null, nothing = (pa.scalar(one, text) for one in ("[", ",", "]", "null", ""))
        joined = pc.binary_join_element_wise(opening, pc.binary_join(lists, comma), closing, nothing)
        return pc.if_else(column.is_valid(), joined, null)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        coded = column.dictionary_encode()
        quoted = pa.array([json.dumps(value, ensure_ascii=False) for value in coded.dictionary.to_pylist()], text)
        column = quoted.take(coded.indices)
    return pc.fill_null(column.cast(text), "null")
