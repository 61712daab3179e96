"""Epochs of readers in several processes: `ReadEpochs` in shared memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import NamedTuple

import numpy as np

from ml.compute.kernel_cache import jit
from ml.embeddings.inference.atomic import fence, load_acquire, store_release
from ml.embeddings.inference.shared.ranges import RangeHandle, SharedRange

_READERS, _WORD = 64, 8  # readers of one process at a time; further ones wait for each other
_SHORTEST, _LONGEST = 2e-5, 1e-3  # seconds between two looks at the readers


class EpochsHandle(NamedTuple):
    """Identifies epochs for other processes."""

    range: RangeHandle
    processes: int


class SharedEpochs:
    """Tells a writer when the readers that began before have ended, in P processes.

    A reader writes the current epoch to a word of its own for as long as it reads. The writer publishes new data, begins an
    epoch, and waits until no word has an earlier one. Readers never wait for the writer. A process that ends while it reads has
    to be cleared by `clear`.

    Args:
        shared: The memory.
        processes: Number P of processes, including the writer's.
        process: Number of this process among them.

    Example:
        >>> writer = SharedEpochs.create(processes=2)
        >>> reader = SharedEpochs.attach(writer.handle, process=1)
        >>> with reader.read():
        ...     writer.readers
        1
        >>> writer.wait_for_readers()
    """

    def __init__(self, shared: SharedRange, processes: int, process: int) -> None:
        self._range, self._processes, self._process = shared, processes, process
        self._words = np.frombuffer(shared.map(), np.int64, (1 + processes) * _READERS)
        self._epoch = self._words.ctypes.data
        self._own: SimpleQueue[int] = SimpleQueue()
        for reader in range(_READERS):
            self._own.put(self._epoch + ((1 + process) * _READERS + reader) * _WORD)

    @classmethod
    def create(cls, processes: int) -> SharedEpochs:
        """Create epochs for a number of processes, of which the caller is number 0, the writer."""
        epochs = cls(SharedRange.create((1 + processes) * _READERS * _WORD), processes, 0)
        epochs._words[0] = 1
        return epochs

    @classmethod
    def attach(cls, handle: EpochsHandle, process: int) -> SharedEpochs:
        """Take part as one of the readers. Raises `StaleRange`."""
        return cls(SharedRange.attach(handle.range), handle.processes, process)

    @property
    def handle(self) -> EpochsHandle:
        """Identifies the epochs for other processes."""
        return EpochsHandle(self._range.handle, self._processes)

    @property
    def readers(self) -> int:
        """Number of readers."""
        return int(np.count_nonzero(self._words[_READERS:]))

    @contextmanager
    def read(self) -> Iterator[None]:
        """Use data that the writer may replace."""
        own = self._own.get()
        _enter(self._epoch, own)
        try:
            yield
        finally:
            _leave(own)
            self._own.put(own)

    def wait_for_readers(self) -> None:
        """Wait for all readers that began before the call. Only one thread of one process at a time may call it."""
        epoch, wait = _next(self._epoch), _SHORTEST
        while ((words := self._words[_READERS:].copy())[words != 0] < epoch).any():
            time.sleep(wait)
            wait = min(2 * wait, _LONGEST)

    def clear(self, process: int) -> None:
        """Remove the readers of a process that has ended."""
        self._words[(1 + process) * _READERS : (2 + process) * _READERS] = 0


@jit
def _enter(epoch, own):  # type: ignore[no-untyped-def]
    store_release(own, load_acquire(epoch))
    fence()  # the writer sees the reader, or the reader sees what the writer has published


@jit
def _leave(own):  # type: ignore[no-untyped-def]
    store_release(own, np.int64(0))


@jit
def _next(epoch):  # type: ignore[no-untyped-def]
    number = load_acquire(epoch) + 1
    store_release(epoch, number)
    fence()
    return number
