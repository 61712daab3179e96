"""Corrupts log lines on purpose, in the ways in which real lines are corrupt (`KINDS`). Readers must quarantine each of them.

The kinds fit a comma-separated log whose first field is a time in milliseconds and whose fields are never quoted.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

YEAR_MS = 365 * 86_400_000


def _with_time(line: bytes, change: Callable[[bytes], bytes]) -> bytes:
    time, _, rest = line.partition(b",")
    return change(time) + b"," + rest


KINDS: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda line: line[: line.rfind(b",", 0, max(len(line) // 2, line.find(b",") + 1))],
    "extra field": lambda line: line + b",0.5",
    "not a number": lambda line: _with_time(line, lambda time: time[:-3] + b"abc"),
    "missing time": lambda line: _with_time(line, lambda _: b""),
    "wrong year": lambda line: _with_time(line, lambda time: str(int(time) - YEAR_MS).encode()),
    "not UTF-8": lambda line: b",\xff\xfe".join(line.rsplit(b",", 1)),
    "two lines joined": lambda line: line + line,
}


def corrupt_lines(text: bytes, rate: float, rng: np.random.Generator) -> tuple[bytes, NDArray[np.bool_]]:
    """Corrupts each line with a given probability.

    Args:
        text: N lines, each ended by a line feed.
        rate: Probability that a line is corrupted.
        rng: Draws the lines and the kinds.

    Returns:
        The new text, and which lines are corrupt, bool [N].
    """
    ends = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n"))
    corrupt = rng.random(len(ends)) < rate
    kinds = tuple(KINDS.values())
    pieces, done = [], 0
    # A loop over the few corrupt lines, not over all.
    for row in np.flatnonzero(corrupt).tolist():
        start, end = (int(ends[row - 1]) + 1 if row else 0), int(ends[row])
        pieces += [text[done:start], kinds[rng.integers(len(kinds))](text[start:end])]
        done = end
    return b"".join([*pieces, text[done:]]), corrupt
