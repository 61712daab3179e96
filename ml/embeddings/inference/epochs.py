"""Epochs of readers, with which a writer learns that no reader uses replaced data any more (McKenney's read-copy-update)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition


class ReadEpochs:
    """Counts the readers of the current epoch and of the epoch before it.

    A writer first publishes new data, then waits for the readers that began before, and then reuses the memory of the old data.
    Readers never wait for a writer: while it waits, new readers enter the next epoch.

    Example:
        >>> epochs = ReadEpochs()
        >>> with epochs.read():
        ...     epochs.readers
        1
        >>> epochs.wait_for_readers()  # none is reading
    """

    def __init__(self) -> None:
        self._changed, self._epoch, self._readers = Condition(), 0, [0, 0]

    def __reduce__(self) -> tuple[type[ReadEpochs], tuple[()]]:
        """Copy and pickle the epochs as new ones, without readers."""
        return ReadEpochs, ()

    @property
    def readers(self) -> int:
        """Number of readers."""
        return sum(self._readers)

    @contextmanager
    def read(self) -> Iterator[None]:
        """Use data that writers may replace."""
        with self._changed:
            epoch = self._epoch
            self._readers[epoch] += 1
        try:
            yield
        finally:
            with self._changed:
                self._readers[epoch] -= 1
                if not self._readers[epoch]:
                    self._changed.notify_all()

    def wait_for_readers(self) -> None:
        """Wait for all readers that began before the call. Only one thread at a time may call it."""
        with self._changed:
            before, self._epoch = self._epoch, 1 - self._epoch
            self._changed.wait_for(lambda: not self._readers[before])
