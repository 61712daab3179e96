"""Locks between processes that are held through a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def exclusive(path: str | Path, error: Exception) -> Iterator[None]:
    """Holds a lock that excludes other users of the file, also in this process. The lock of a killed process is released.

    Args:
        path: The file, on a local disk. Its folder is created.
        error: Raised at once if the lock is held already.
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
