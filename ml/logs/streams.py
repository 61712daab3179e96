"""Opens a log file as a stream of bytes, and cuts the stream into blocks of whole lines.

Block k of a file holds the lines whose first unpacked byte is in [k * BLOCK, (k + 1) * BLOCK). The same lines are in a block
no matter who reads it, so tasks can share a file. `ml.logs.text.parse` parses the lines.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO, cast

from upath import UPath

from ml.logs.packed import UNPACKED_PIECE, CorruptBytes, suffix_of, unpack
from ml.logs.sources import LogFile, stamp_of
from ml.logs.text.joined_rows import join_rows

BLOCK = 8 << 20
PIECE = 1 << 20
HEAD = 1000


class DamagedFile(Exception):
    """A file is truncated or corrupt: everything read so far is good, the rest is lost."""


@dataclass(frozen=True)
class Block:
    """Whole lines of a file.

    Attributes:
        index: Number of the block in its file.
        data: The lines. Each ends with a line feed, except possibly the last line of a file.
        too_long: Beginning of a line longer than BLOCK, the last of the block and not in `data`.
        damage: Why the file cannot be read beyond this block.
        torn: Beginning of the line that the damage cut, not in `data`.
    """

    index: int
    data: bytes
    too_long: bytes | None = None
    damage: str | None = None
    torn: bytes = b""


def pieces(file: LogFile, start: int = 0) -> Iterator[bytes]:
    """The unpacked bytes of a file, from `start` if it can be split, with each row on one line (`join_rows`).

    Raises:
        DamagedFile: Packed bytes are corrupt.
    """
    if file.multiline is None:
        return _stored(file, start)
    return join_rows(_stored(file, 0), file.multiline)


def _stored(file: LogFile, start: int) -> Iterator[bytes]:
    path, name = UPath(file.url), file.name.lower()
    try:
        if file.member is not None:
            with _member(_archive(file.url, stamp_of(path)[1]), file.member) as member:
                while piece := member.read1(UNPACKED_PIECE):
                    yield piece
            return
        with path.open("rb") as raw:
            if name.endswith(".zip"):
                raise DamagedFile("not a zip archive")
            if suffix_of(name):
                yield from unpack(name, cast(BinaryIO, raw))
            else:
                raw.seek(start)
                while piece := raw.read(PIECE):
                    yield piece
    except (CorruptBytes, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise DamagedFile(str(error) or type(error).__name__) from error


@lru_cache(maxsize=2)
def _archive(url: str, stamp: str) -> zipfile.ZipFile:
    """Return an archive, kept open so that its directory is read once for all members. `stamp` differs between its versions."""
    return zipfile.ZipFile(cast(BinaryIO, UPath(url).open("rb")))


def _member(archive: zipfile.ZipFile, name: str) -> zipfile.ZipExtFile:
    try:
        return cast(zipfile.ZipExtFile, archive.open(name))
    except RuntimeError as error:  # encrypted, or packed by a method that zipfile does not support
        raise DamagedFile(str(error)) from error


def blocks(file: LogFile, first: int = 0, last: int | None = None) -> Iterator[Block]:
    """Reads blocks of whole lines.

    Args:
        file: The file. If it cannot be split, it is unpacked from its beginning and blocks before `first` are skipped.
        first: The first block.
        last: The last block, included; None reads to the end.

    Yields:
        Blocks in order, without those in which no line begins.
    """
    seek = first * BLOCK if file.splittable else 0
    # One byte early: a line feed there means that a line begins at `seek` itself.
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
    """Cuts a stream of bytes into blocks. `held` was read and not yet cut; it begins a line, at byte `position` of the file."""

    def __init__(self, source: Iterator[bytes], position: int) -> None:
        self.source, self.position = source, position
        self.held = bytearray()
        self.ended = False
        self.damage: str | None = None

    def read(self) -> None:
        try:
            piece = next(self.source, b"")
        except DamagedFile as error:
            piece, self.damage = b"", str(error)
        self.ended = not piece
        self.held += piece

    def find_line_end(self, begin: int) -> int:
        """Index of the first line feed from `begin`, reading further if needed; -1 if there is none within BLOCK bytes."""
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
        room = (index + 1) * BLOCK - self.position  # lines that begin within `room` bytes belong to this block
        while len(self.held) < room and not self.ended:
            self.read()
        if not self.held:
            if self.damage is None:
                return None
            why, self.damage = self.damage, None
            return Block(index, b"", damage=why)
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
        return Block(index, data, damage=why, torn=self.drop(len(self.held)))
