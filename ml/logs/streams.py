"""Opening a log file as a stream of bytes, and cutting the stream into blocks of whole lines.

Block k of a file is the lines whose first byte (unpacked) lies in [k * BLOCK, (k + 1) * BLOCK): the same lines whoever
reads them, so that tasks can share a file and still agree. What the lines say is `ml.logs.text.parse`.
"""

from __future__ import annotations

import gzip
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO, cast

import zstandard
from upath import UPath

from ml.logs.sources import LogFile, stamp_of

BLOCK = 8 << 20
PIECE = 1 << 20
# What is unpacked at once is lost at once where the packed bytes are broken.
UNPACKED_PIECE = 1 << 16
HEAD = 1000


class Damaged(Exception):
    """A file ends or breaks before its end: what was read so far is good, the rest is lost."""


@dataclass(frozen=True)
class Block:
    """data: whole lines, ended by a line feed but for a last one. too_long: the head of a line longer than BLOCK, the last of
    the block and not in data. damaged: why the file can not be read beyond this block; data then lacks `torn`, the beginning
    of a line that the damage cut."""

    index: int
    data: bytes
    too_long: bytes | None = None
    damaged: str | None = None
    torn: bytes = b""


def pieces(file: LogFile, start: int = 0) -> Iterator[bytes]:
    """The unpacked bytes of a file, from `start` where it can be split. Raises `Damaged` where packed bytes are broken."""
    path, name = UPath(file.url), file.name.lower()
    try:
        if file.member is not None:
            with _member(_archive(file.url, stamp_of(path)[1]), file.member) as member:
                while piece := member.read1(UNPACKED_PIECE):
                    yield piece
            return
        with path.open("rb") as raw:
            if name.endswith(".zip"):
                raise Damaged("not a zip archive")
            if name.endswith(".gz"):
                with gzip.GzipFile(fileobj=raw, mode="rb") as unpacked:
                    while piece := unpacked.read1(UNPACKED_PIECE):
                        yield piece
            elif name.endswith(".zst"):
                yield from _zstandard(raw)
            else:
                raw.seek(start)
                while piece := raw.read(PIECE):
                    yield piece
    except (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile, zstandard.ZstdError) as error:
        raise Damaged(str(error) or type(error).__name__) from error


@lru_cache(maxsize=2)
def _archive(url: str, stamp: str) -> zipfile.ZipFile:
    """An archive, kept open: its directory is read once and not again for each of its members. stamp: of its present state."""
    return zipfile.ZipFile(cast(BinaryIO, UPath(url).open("rb")))


def _member(archive: zipfile.ZipFile, name: str) -> zipfile.ZipExtFile:
    try:
        return cast(zipfile.ZipExtFile, archive.open(name))
    except RuntimeError as error:  # encrypted, or packed by a method that zipfile does not know
        raise Damaged(str(error)) from error


def _zstandard(raw: BinaryIO) -> Iterator[bytes]:
    """Frame after frame; `stream_reader` would take a truncated frame for a finished one."""
    decompressor, frame = zstandard.ZstdDecompressor(max_window_size=1 << 31), None
    while packed := raw.read(PIECE):
        while packed:
            frame = frame or decompressor.decompressobj()
            if unpacked := frame.decompress(packed):
                yield unpacked
            packed, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
    if frame is not None:
        raise Damaged("compressed file ended before the end of a frame")


def blocks(file: LogFile, first: int = 0, last: int | None = None) -> Iterator[Block]:
    """Blocks `first` to `last` (both included; to the end by default) of a file; blocks in which no line begins are left out.

    A file that can not be split is unpacked from its beginning, and the blocks before `first` are passed over.
    """
    seek = first * BLOCK if file.splittable else 0
    # One byte early: a line feed there says that a line begins at `seek` itself.
    cutter = _Cutter(pieces(file, max(seek - 1, 0)), max(seek - 1, 0))
    if seek:
        cutter.skip_line()
    while last is None or cutter.position // BLOCK <= last:
        block = cutter.next_block()
        if block is None:
            return
        if block.index >= first:
            yield block


class _Cutter:
    """Holds what has been read and not been cut: `held` begins a line, at byte `position` of the file."""

    def __init__(self, source: Iterator[bytes], position: int) -> None:
        self.source, self.position = source, position
        self.held = bytearray()
        self.ended = False
        self.damage: str | None = None

    def read(self) -> None:
        try:
            piece = next(self.source, b"")
        except Damaged as error:
            piece, self.damage = b"", str(error)
        self.ended = not piece
        self.held += piece

    def find_line_end(self, begin: int) -> int:
        """Index of the first line feed from `begin`, reading on for it; -1 where there is none, or only beyond BLOCK bytes."""
        searched = begin
        while (found := self.held.find(b"\n", searched)) < 0 and not self.ended and len(self.held) - begin <= BLOCK:
            searched = len(self.held)
            self.read()
        return found

    def skip_line(self) -> None:
        while (found := self.held.find(b"\n")) < 0 and not self.ended:
            self.position += len(self.held)
            self.held.clear()
            self.read()
        self.drop(found + 1 if found >= 0 else len(self.held))

    def drop(self, count: int) -> bytes:
        data = bytes(memoryview(self.held)[:count])
        del self.held[:count]
        self.position += count
        return data

    def next_block(self) -> Block | None:
        while not self.held and not self.ended:
            self.read()
        index = self.position // BLOCK
        room = (index + 1) * BLOCK - self.position  # lines that begin within `room` bytes are this block's
        while len(self.held) < room and not self.ended:
            self.read()
        if not self.held:
            if self.damage is None:
                return None
            why, self.damage = self.damage, None
            return Block(index, b"", damaged=why)
        begin = self.held.rfind(b"\n", 0, min(room, len(self.held)) - 1) + 1  # the last line that begins in the block
        end = self.find_line_end(begin)
        length = (end if end >= 0 else len(self.held)) - begin
        if length > BLOCK:
            data, head = self.drop(begin), bytes(self.held[: min(BLOCK, HEAD)])
            self.skip_line()
            return Block(index, data, too_long=head)
        if end >= 0:
            return Block(index, self.drop(end + 1))
        if self.damage is None:
            return Block(index, self.drop(len(self.held)))
        data, why, self.damage = self.drop(begin), self.damage, None
        return Block(index, data, damaged=why, torn=self.drop(len(self.held)))
