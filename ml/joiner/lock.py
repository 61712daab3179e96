"""The lock of a live join: one process at a time joins a stream.

A second one would delete the files that the tasks of the first have written, and both would continue the same checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout
from upath import UPath


class StreamInUse(RuntimeError):
    """Another process joins the stream."""


@contextmanager
def only_join(root: UPath) -> Iterator[None]:
    """Excludes other joins of a stream inside the block. The lock is released if the process is killed.

    Args:
        root: `<home>/stream/<dataset>`, a local folder.

    Raises:
        StreamInUse: Another process joins the stream.
    """
    root.mkdir(parents=True, exist_ok=True)
    lock = FileLock((root / "joiner.lock").path, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise StreamInUse(f"another process joins the stream {root}; stop it first, or set another EVERGREEN_HOME") from error
    try:
        yield
    finally:
        lock.release()
