"""A value that one process replaces while others read it."""

from __future__ import annotations

import pickle
import zlib
from typing import Any

import numpy as np

from ml.compute.kernel_cache import jit
from ml.embeddings.inference.atomic import fence, load_acquire, store_release
from ml.embeddings.inference.shared.ranges import RangeHandle, SharedRange

_HEAD, _BYTES = 64, 8


class Board:
    """A value in shared memory, as a pickle, with a number that grows with each new value.

    Readers do not wait for the writer: it writes each value beside the last one. A reader that is overtaken by two writes finds
    a wrong checksum, and reads again.

    Args:
        shared: The memory.
        is_reader: Whether the board is read only.

    Example:
        >>> board = Board.create(1 << 10)
        >>> reader = Board.attach(board.handle)
        >>> board.publish({"version": 3})
        >>> reader.number, reader.read()
        (1, (1, {'version': 3}))
    """

    def __init__(self, shared: SharedRange, is_reader: bool = False) -> None:
        self._range, self._mapped = shared, shared.map(readable_only=is_reader)
        self._words = np.frombuffer(self._mapped, np.int64, _HEAD // _BYTES)
        self._address = self._words.ctypes.data
        self._capacity = (shared.handle.size - _HEAD) // 2

    @classmethod
    def create(cls, capacity: int) -> Board:
        """Create a board for values whose pickles have at most `capacity` bytes, without a value."""
        return cls(SharedRange.create(_HEAD + 2 * (capacity + 2 * _BYTES)))

    @classmethod
    def attach(cls, handle: RangeHandle) -> Board:
        """Read the board of another process. Raises `StaleRange`."""
        return cls(SharedRange.attach(handle), is_reader=True)

    @property
    def handle(self) -> RangeHandle:
        """Identifies the board for other processes."""
        return self._range.handle

    @property
    def number(self) -> int:
        """Number of the newest value; 0 without one."""
        return _load(self._address)

    def publish(self, value: Any) -> None:
        """Replace the value. One process at a time may call it.

        Raises:
            ValueError: The value is too large.
        """
        data, number = pickle.dumps(value), self.number + 1
        if len(data) + 2 * _BYTES > self._capacity:
            raise ValueError(f"a value of {len(data)} bytes, expected at most {self._capacity - 2 * _BYTES}")
        at = self._place(number)
        head = np.array([len(data), zlib.crc32(data, number & 0xFFFFFFFF)], np.int64).tobytes()
        self._mapped[at : at + len(head) + len(data)] = head + data
        _store(self._address, number)

    def read(self) -> tuple[int, Any]:
        """Return the newest value and its number. Raises `LookupError` without a value."""
        while number := self.number:
            at = self._place(number)
            size, checksum = np.frombuffer(self._mapped[at : at + 2 * _BYTES], np.int64).tolist()
            data = self._mapped[at + 2 * _BYTES : at + 2 * _BYTES + max(min(size, self._capacity), 0)]
            if zlib.crc32(data, number & 0xFFFFFFFF) == checksum:
                # Only processes of the writer's user can write here: a memfd is reached through the writer's /proc/<pid>/fd.
                return number, pickle.loads(data)  # noqa: S301
        raise LookupError("the board has no value yet")

    def _place(self, number: int) -> int:
        return _HEAD + number % 2 * self._capacity


@jit
def _load(address):  # type: ignore[no-untyped-def]
    fence()  # what the caller has read before is not older than the number
    return load_acquire(address)


@jit
def _store(address, number):  # type: ignore[no-untyped-def]
    store_release(address, number)
    fence()
