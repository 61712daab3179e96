"""Unpacks files that are packed as one stream: gzip, Zstandard, bzip2, xz and LZ4, by the ends of their names."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

import pyarrow as pa
import zstandard

# Small, because a whole piece is lost if packed bytes are corrupt.
UNPACKED_PIECE = 1 << 16
_PACKED_PIECE = 1 << 20


class CorruptBytes(Exception):
    """Packed bytes are corrupt or truncated."""


def suffix_of(name: str) -> str | None:
    """Return the suffix by which a file is unpacked, such as `.gz`; None if it is not packed.

    >>> suffix_of("2026/clicks.CSV.GZ"), suffix_of("clicks.csv")
    ('.gz', None)
    """
    return next((suffix for suffix in UNPACKERS if name.lower().endswith(suffix)), None)


def unpack(name: str, raw: BinaryIO) -> Iterator[bytes]:
    """Unpack a file.

    Args:
        name: Its name, whose suffix says how it is packed.
        raw: Its bytes, from the beginning.

    Yields:
        Unpacked bytes in pieces.

    Raises:
        CorruptBytes: The rest of the file is lost. All pieces before are good, as far as the format has checksums.
        OSError: The file cannot be read.
    """
    suffix = suffix_of(name)
    assert suffix is not None, name
    try:
        yield from UNPACKERS[suffix](raw)
    except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError, lzma.LZMAError) as error:
        raise CorruptBytes(str(error) or type(error).__name__) from error
    except OSError as error:
        if error.errno is not None:  # of the file itself
            raise
        raise CorruptBytes(str(error)) from error


def _gzip(raw: BinaryIO) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=raw, mode="rb") as unpacked:
        while piece := unpacked.read1(UNPACKED_PIECE):
            yield piece


def _zstandard(raw: BinaryIO) -> Iterator[bytes]:
    """Unpacks frame by frame, because `stream_reader` does not notice a truncated frame."""
    decompressor, frame = zstandard.ZstdDecompressor(max_window_size=1 << 31), None
    while packed := raw.read(_PACKED_PIECE):
        while packed:
            frame = frame or decompressor.decompressobj()
            if unpacked := frame.decompress(packed):
                yield unpacked
            packed, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
    if frame is not None:
        raise EOFError("compressed file ended before the end of a frame")


def _bzip2(raw: BinaryIO) -> Iterator[bytes]:
    with bz2.BZ2File(raw) as unpacked:
        while piece := unpacked.read1(UNPACKED_PIECE):
            yield piece


def _xz(raw: BinaryIO) -> Iterator[bytes]:
    with lzma.LZMAFile(raw) as unpacked:
        while piece := unpacked.read1(UNPACKED_PIECE):
            yield piece


def _lz4(raw: BinaryIO) -> Iterator[bytes]:
    with pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "lz4") as unpacked:
        while piece := unpacked.read(UNPACKED_PIECE):
            yield piece


UNPACKERS: dict[str, Callable[[BinaryIO], Iterator[bytes]]] = {
    ".gz": _gzip,
    ".zst": _zstandard,
    ".bz2": _bzip2,
    ".xz": _xz,
    ".lz4": _lz4,
}
"""Suffix of a packed file -> function that yields its unpacked bytes."""
