"""Filters what Spark's processes write to standard error when nothing is wrong.

Spark closes Python workers that it has not used for a minute. Such a worker then prints a traceback of `BrokenPipeError`.
`ml.compute.spark_daemon` prevents this for the workers of tasks, but Spark starts those of its planner with a fixed module. A
worker of a stateful processor also prints how it starts. `make join` filters both.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

_TRACEBACK = b"Traceback (most recent call last):"
_STARTS = (b"Streaming TransformWithStateInPandas Python worker", b"Starting Streaming TransformWithStateInPandas")
_STANDARD_ERROR = 2


def relevant_lines(lines: Iterable[bytes]) -> Iterator[bytes]:
    r"""Yields the lines that are not noise, in order.

    Args:
        lines: Lines with their ends.

    >>> list(relevant_lines([b"a\n", b"Starting Streaming TransformWithStateInPandas Python worker.\n", b"\n", b"b\n"]))
    [b'a\n', b'b\n']
    """
    held: list[bytes] = []  # of a traceback that has not ended
    skips_blank = False
    for line in lines:
        if held and line.startswith(b" "):
            held.append(line)
            continue
        if held:
            frames = [one for one in held if one.lstrip().startswith(b"File ")]
            if line.startswith(b"BrokenPipeError") and all(b"pyspark/daemon.py" in one for one in frames):
                held = []
                continue
            yield from held
            held = []
        if line.startswith(_TRACEBACK):
            held = [line]
        elif line.startswith(_STARTS):
            skips_blank = True
        elif not (skips_blank and line == b"\n"):
            skips_blank = False
            yield line
    yield from held


@contextmanager
def filtered_stderr() -> Iterator[None]:
    """Filters the standard error of processes that start inside the block, for as long as they run."""
    sys.stderr.flush()
    before = os.dup(_STANDARD_ERROR)
    reading, writing = os.pipe()
    os.dup2(writing, _STANDARD_ERROR)
    os.close(writing)
    threading.Thread(target=_copy, args=(reading, os.dup(before)), name="stderr of Spark", daemon=True).start()
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(before, _STANDARD_ERROR)
        os.close(before)


def _copy(reading: int, target: int) -> None:
    """Copies relevant lines until no process can write any more."""
    with os.fdopen(reading, "rb") as lines, os.fdopen(target, "wb", buffering=0) as output:
        for line in relevant_lines(lines):
            output.write(line)
