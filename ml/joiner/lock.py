"""The lock of a live join: one process at a time joins a stream.

A second one would delete the files that the tasks of the first have written, and both would continue the same checkpoint.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from upath import UPath

from ml.locks import exclusive


class StreamInUse(RuntimeError):
    """Another process joins the stream."""


def only_join(root: UPath) -> AbstractContextManager[None]:
    """Excludes other joins of a stream inside the block. The lock is released if the process is killed.

    Args:
        root: `<home>/stream/<dataset>`, a local folder.

    Raises:
        StreamInUse: Another process joins the stream.
    """
    error = StreamInUse(f"another process joins the stream {root}; stop it first, or set another EVERGREEN_HOME")
    return exclusive((root / "joiner.lock").path, error)
