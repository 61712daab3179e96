"""Numbers the lines of a file whose rows can have several of them, in blocks in which each row is one line."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ml.logs.quarantine import BLANK, CONTROL, FIELDS, NOT_UTF8, STRAY_CR, UNBALANCED, UNREADABLE
from ml.logs.text.joined_rows import LINE_END, split_rows
from ml.logs.text.lines import LF, Lines
from ml.logs.text.parse import ParsedLines

_BROKEN = (BLANK, CONTROL, FIELDS, NOT_UTF8, STRAY_CR, UNBALANCED, UNREADABLE)


@dataclass(frozen=True)
class RowLines:
    """The lines of J rows of a block.

    Attributes:
        rows: The rows, each as one line, [J].
        starts: The first line of each row, int64 [J], ascending. A row ends where the next one starts.
        num_lines: Number of lines.
        bad: Line -> reason. A row with a value that is malformed is bad in its first line. A row that cannot be divided into
            fields is bad in all its lines, because an open quote takes the rows after it.
        joined: Whether rows can have several lines.
    """

    rows: Lines
    starts: NDArray[np.int64]
    num_lines: int
    bad: dict[int, str]
    joined: bool

    @classmethod
    def of(cls, parsed: ParsedLines, *, joined: bool) -> Self:
        """Numbers the lines of a parsed block; `joined` says whether its rows can have several."""
        if not joined:
            return cls(parsed.lines, np.arange(parsed.num_lines), parsed.num_lines, parsed.bad, joined)
        lines = parsed.lines
        within = np.flatnonzero(lines.bytes == LINE_END[0])
        heights = 1 + np.bincount(lines.line_at(within), minlength=len(lines))
        if lines.data.endswith(LINE_END + b"\n"):  # a quote that is open at the end of the file takes its last line end
            heights[-1] -= 1
        ends = np.cumsum(heights)
        bad: dict[int, str] = {}
        for row, reason in parsed.bad.items():
            start = int(ends[row] - heights[row])
            bad |= dict.fromkeys(range(start, int(ends[row]) if reason in _BROKEN else start + 1), reason)
        return cls(lines, ends - heights, int(ends[-1]) if len(ends) else 0, bad, joined)

    def text(self, line: int) -> bytes:
        """The bytes of a bad line without its line end: of the whole row, if it is bad in its first line only."""
        if not self.joined:
            return self.rows.text(line)
        if self.bad[line] in _BROKEN:
            begin = int(self._line_ends[line - 1]) + 1 if line else 0
            return split_rows(self.rows.data[begin : self._line_ends[line]]).rstrip(b"\r")
        return split_rows(self.rows.text(int(np.searchsorted(self.starts, line))))

    @cached_property
    def _line_ends(self) -> NDArray[np.int64]:
        """Index of each line's end, a line feed or what stands for one."""
        return np.flatnonzero((self.rows.bytes == LF) | (self.rows.bytes == LINE_END[0]))

    def take(self, mask: NDArray[np.bool_]) -> bytes:
        """The rows that begin in lines where mask [num_lines] is true, with their line ends replaced."""
        return self.rows.take(mask[self.starts] if self.joined else mask)
