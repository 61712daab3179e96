"""A lock that either several readers or one writer can hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition


class ReadWriteLock:
    """A lock that either several readers or one writer can hold.

    A waiting writer blocks new readers, so that readers cannot delay it indefinitely.

    Example:
        >>> lock = ReadWriteLock()
        >>> with lock.read():
        ...     lock.readers
        1
        >>> with lock.write():
        ...     lock.readers
        0
    """

    def __init__(self) -> None:
        self._changed = Condition()
        self.readers, self._writers, self._writing = 0, 0, False

    def __reduce__(self) -> tuple[type[ReadWriteLock], tuple[()]]:
        """Copy and pickle the lock as a new, unlocked one."""
        return ReadWriteLock, ()

    @contextmanager
    def read(self) -> Iterator[None]:
        """Hold the lock for reading."""
        with self._changed:
            while self._writers:
                self._changed.wait()
            self.readers += 1
        try:
            yield
        finally:
            with self._changed:
                self.readers -= 1
                if not self.readers:
                    self._changed.notify_all()

    @contextmanager
    def write(self) -> Iterator[None]:
        """Hold the lock for writing, exclusively."""
        with self._changed:
            self._writers += 1
            while self.readers or self._writing:
                self._changed.wait()
            self._writing = True
        try:
            yield
        finally:
            with self._changed:
                self._writers -= 1
                self._writing = False
                self._changed.notify_all()
