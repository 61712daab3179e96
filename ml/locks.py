"""Locks between processes that are held through a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def exclusive(path: str | Path, error: Exception) -> Iterator[None]:
    """Excludes all others that use the file, in this process too, inside the block. If the process is killed, they can use it.

    Args:
        path: The file, on a local disk. Its folder is created.
        error: Raised at once if another one holds the lock.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=0, thread_local=False)  # the block may end in another thread
    try:
        lock.acquire()
    except Timeout as timeout:
        raise error from timeout
    try:
        yield
    finally:
        lock.release()
