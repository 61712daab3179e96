"""Events on their way from the process that stores them to the processes that answer requests, in shared memory.

An event is in the feed before it is acknowledged, so the next request of its user counts it in every process. What all readers
have read is released.
"""

from __future__ import annotations

import ctypes
import os

import numpy as np
import pyarrow as pa

from ml.embeddings.inference.shared.ranges import RangeHandle, SharedRange

_SIZE, _PAGE, _LENGTH = 1 << 40, 4096, 8
_PUNCH_HOLE = 3  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
_NOT_READING = -1
MOST_READERS = _PAGE // 8 - 1


class EventFeed:
    """A stream of tables that one process appends to, and others read, each from where it has begun.

    Args:
        shared: The memory.
        reader: Number of this reader; None for the writer.

    Example:
        >>> writer = EventFeed.create()
        >>> reader = EventFeed.attach(writer.handle, reader=0)
        >>> writer.begin(reader=0)
        >>> writer.append(pa.table({"item": [7]}))
        >>> [rows["item"].to_pylist() for rows in reader.new()], reader.new()
        ([[7]], [])
    """

    def __init__(self, shared: SharedRange, reader: int | None = None) -> None:
        self._range, self._reader = shared, reader
        self._words = np.frombuffer(shared.map(_PAGE), np.int64)  # the end, and the position of each reader
        self._released = _PAGE

    @classmethod
    def create(cls) -> EventFeed:
        """Create a feed without events."""
        feed = cls(SharedRange.create(_SIZE))
        feed._words[:] = _NOT_READING
        feed._words[0] = _PAGE
        return feed

    @classmethod
    def attach(cls, handle: RangeHandle, reader: int) -> EventFeed:
        """Read the feed of another process as one of at most `MOST_READERS`. Raises `StaleRange`."""
        return cls(SharedRange.attach(handle), reader)

    @property
    def handle(self) -> RangeHandle:
        """Identifies the feed for other processes."""
        return self._range.handle

    def append(self, rows: pa.Table) -> None:
        """Append rows. When the call returns, every reader finds them.

        Raises:
            OSError: There is too little shared memory. No reader finds the rows, and the next call writes to the same place.
            MemoryError: There is too little memory to write the rows as bytes.
        """
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, rows.schema) as stream:
            stream.write_table(rows)
        data = sink.getvalue().to_pybytes()
        at = int(self._words[0])
        left = memoryview(len(data).to_bytes(_LENGTH, "little") + data)
        while left:
            written = os.pwrite(self._range.fd, left, at)
            at, left = at + written, left[written:]
        self._words[0] = at

    def begin(self, reader: int) -> None:
        """Let a reader begin at the end. Only the writer calls it."""
        self._words[1 + reader] = self._words[0]

    def end(self, reader: int) -> None:
        """Keep nothing for a reader any more. Only the writer calls it."""
        self._words[1 + reader] = _NOT_READING

    def new(self) -> list[pa.Table]:
        """Return what was appended since the last call, or since `begin`. One thread at a time may call it."""
        assert self._reader is not None, "the writer does not read"
        found, at = list[pa.Table](), int(self._words[1 + self._reader])
        while at < int(self._words[0]):
            size = int.from_bytes(os.pread(self._range.fd, _LENGTH, at), "little")
            found.append(pa.ipc.open_stream(os.pread(self._range.fd, size, at + _LENGTH)).read_all())
            at += _LENGTH + size
        self._words[1 + self._reader] = at
        return found

    def release(self) -> None:
        """Release the memory of what all readers have read. Only the writer calls it."""
        positions = self._words[1:][self._words[1:] != _NOT_READING]
        read = int(positions.min(initial=self._words[0])) // _PAGE * _PAGE
        if read > self._released and _punch_hole(self._range.fd, self._released, read - self._released):
            self._released = read


def _punch_hole(fd: int, begin: int, size: int) -> bool:
    """Release the memory of bytes, which read as zeros then. Returns whether the system has done so."""
    fallocate = ctypes.CDLL(None).fallocate
    fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    return fallocate(fd, _PUNCH_HOLE, begin, size) == 0
