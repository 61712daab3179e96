"""Finds where the lines of a block begin and end, and selects some of them. Works on bytes, without regard to the format."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

LF, CR = 0x0A, 0x0D
_WINDOW = 1 << 14


@dataclass(frozen=True)
class Lines:
    """The N lines of a block.

    Attributes:
        data: The lines' bytes, ended by a line feed.
    """

    data: bytes

    @cached_property
    def bytes(self) -> NDArray[np.uint8]:
        return np.frombuffer(self.data, np.uint8)

    @cached_property
    def ends(self) -> NDArray[np.int64]:
        """Index of each line's line feed, int64 [N]."""
        return np.flatnonzero(self.bytes == LF)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Index of each line's first byte, int64 [N]."""
        return np.concatenate([np.zeros(1, np.int64), self.ends[:-1] + 1])[: len(self.ends)]

    @cached_property
    def text_ends(self) -> NDArray[np.int64]:
        """Index behind each line's last byte, without its CR LF or LF, int64 [N]."""
        before = self.bytes[np.maximum(self.ends - 1, 0)]
        return self.ends - ((before == CR) & (self.ends > self.starts))

    def __len__(self) -> int:
        return len(self.ends)

    def text(self, line: int) -> bytes:
        """The bytes of one line without its line end."""
        return self.data[self.starts[line] : self.text_ends[line]]

    def between(self, first: int, stop: int) -> memoryview:
        """The lines from `first` until before `stop`, with their line feeds, without a copy."""
        return memoryview(self.data)[self.starts[first] : self.ends[stop - 1] + 1]

    def take(self, mask: NDArray[np.bool_]) -> bytes:
        """The lines where mask [N] is true, with their line feeds."""
        if mask.all():
            return self.data
        # One slice for each run of neighbours.
        edges = np.flatnonzero(np.diff(mask, prepend=False, append=False))
        begins, stops = self.starts[edges[::2]].tolist(), (self.ends[edges[1::2] - 1] + 1).tolist()
        return b"".join([self.data[begin:stop] for begin, stop in zip(begins, stops, strict=True)])

    def line_at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """The line that holds each byte position."""
        return np.searchsorted(self.ends, positions, side="left")

    def are_plain(self) -> bool:
        """Whether all bytes are UTF-8, no line is blank and CR occurs only at line ends. Fast: nearly every block is plain."""
        try:
            _ = self.data.isascii() or str(self.data, "utf-8")
        except UnicodeDecodeError:
            return False
        if b"\r" in self.data:
            return not self.blank().any() and not self.with_stray_cr().any()
        return bool((np.diff(self.ends, prepend=-1) > 1).all())

    def blank(self) -> NDArray[np.bool_]:
        """Lines without characters, bool [N]."""
        return self.text_ends == self.starts

    def with_stray_cr(self) -> NDArray[np.bool_]:
        """Lines with a CR before their end, bool [N]."""
        found = np.zeros(len(self), bool)
        returns = np.flatnonzero(self.bytes == CR)
        line = self.line_at(returns)
        found[line[returns < self.text_ends[line]]] = True
        return found

    def not_utf8(self) -> NDArray[np.bool_]:
        """Lines that are not UTF-8, bool [N]. Takes one step for each bad line and none for good ones."""
        found = np.zeros(len(self), bool)
        view, begin = memoryview(self.data), 0
        while begin < len(self.data):
            try:
                # In windows, because an error carries a copy of everything that was to be decoded.
                begin += codecs.utf_8_decode(view[begin : begin + _WINDOW], "strict", False)[1]
            except UnicodeDecodeError as error:
                line = int(self.line_at(np.array([begin + error.start]))[0])
                found[line] = True
                begin = int(self.ends[line]) + 1
        return found
