"""Memory that processes of one user share, without a name in a file system: nothing is left over when they have ended.

Linux only: a range is a memfd, which other processes open through `/proc/<owner>/fd`.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import uuid
import weakref
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NO_RESERVE = 0x4000 if sys.platform == "linux" else 0  # MAP_NORESERVE: unused pages do not count against a limit


class StaleRange(LookupError):
    """The owner has ended, or does not hold the range any more."""


class RangeHandle(NamedTuple):
    """Identifies a range for other processes.

    Attributes:
        owner: The process that created the range.
        fd: File descriptor of the range in that process.
        name: Distinguishes the range from a later one with the same file descriptor.
        size: Size in bytes.
    """

    owner: int
    fd: int
    name: str
    size: int


class SharedRange:
    """Zeroed bytes that several processes can map or read. Pages take memory from when they are first written.

    The range is released when every process has dropped the object and its mappings.

    Example:
        >>> mine = SharedRange.create(4096)
        >>> other = SharedRange.attach(mine.handle)
        >>> mine.map()[:3] = b"abc"
        >>> other.map()[:3]
        b'abc'
    """

    def __init__(self, handle: RangeHandle, fd: int) -> None:
        self.handle, self.fd = handle, fd
        weakref.finalize(self, os.close, fd)

    @classmethod
    def create(cls, size: int) -> SharedRange:
        """Create a range.

        Raises:
            OSError: The system has no memfd, or refuses the size.
        """
        if not hasattr(os, "memfd_create"):
            raise OSError(f"{sys.platform} has no memfd, through which processes share rows; use one process")
        name = f"evergreen-{uuid.uuid4().hex}"
        fd = os.memfd_create(name, os.MFD_CLOEXEC)
        found = cls(RangeHandle(os.getpid(), fd, name, size), fd)
        os.ftruncate(fd, size)
        return found

    @classmethod
    def attach(cls, handle: RangeHandle) -> SharedRange:
        """Open the range of another process. Raises `StaleRange`."""
        try:
            fd = os.open(f"/proc/{handle.owner}/fd/{handle.fd}", os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise StaleRange(f"process {handle.owner} does not hold {handle.name}: {error.strerror}") from error
        found = cls(handle, fd)
        if str(Path(f"/proc/self/fd/{fd}").readlink()) != f"/memfd:{handle.name} (deleted)":
            raise StaleRange(f"process {handle.owner} does not hold {handle.name} any more")
        return found

    def map(self, size: int | None = None, readable_only: bool = False) -> mmap.mmap:
        """Map the range, or its first `size` bytes."""
        access = mmap.PROT_READ if readable_only else mmap.PROT_READ | mmap.PROT_WRITE
        return mmap.mmap(self.fd, size or self.handle.size, flags=mmap.MAP_SHARED | NO_RESERVE, prot=access)

    def view(self) -> NDArray[np.uint8]:
        """Map the range for reading. A write to the array ends this process, and changes nothing that others read.

        To NumPy, the array is like any other: kernels are not compiled a second time for it, and PyTorch does not warn.
        """
        mapped = self.map(readable_only=True)
        held = (ctypes.c_uint8 * self.handle.size).from_address(np.frombuffer(mapped, np.uint8).ctypes.data)
        held.mapped = mapped  # type: ignore[attr-defined] # it stays mapped for as long as an array has the bytes
        return np.ctypeslib.as_array(held)
