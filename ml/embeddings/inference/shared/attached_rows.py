"""Rows of another process, as readers in this process see them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ml.embeddings.inference.find_rows import RowFinder
from ml.embeddings.inference.growing_memory import GrowingMemory, MemoryHandle
from ml.embeddings.inference.packed_tables import PackedTables
from ml.embeddings.inference.shared.arena import SLOT_BYTES
from ml.embeddings.inference.shared.board import Board
from ml.embeddings.inference.shared.epochs import SharedEpochs
from ml.embeddings.inference.shared.layout import Layout
from ml.embeddings.inference.shared.ranges import RangeHandle, StaleRange

Ints = NDArray[np.int64]


class RowsHandle(NamedTuple):
    """Identifies the rows of a collection for other processes.

    Attributes:
        board: Where layouts are published.
        finder: The way from ids to rows.
        tables: The tables, without rows.
        changes: Number of the layout when the handle was made.
    """

    board: RangeHandle
    finder: RowFinder
    tables: PackedTables
    changes: int


class _View(NamedTuple):
    """A layout as it is mapped in this process."""

    number: int
    layout: Layout
    tables: PackedTables
    maps: list[GrowingMemory]
    directory: Ints
    redirected: Ints | None


class AttachedRows:
    """Looks up rows that another process changes, without copying them and without waiting for it.

    A look-up reads each row whole, before or after a change, as those of the other process do.

    Args:
        handle: The rows, from `ServingRows.handle`.
        epochs: The readers of the other process, among which this one is.

    Raises:
        StaleRange: The other process has ended, or does not hold the rows any more.
    """

    def __init__(self, handle: RowsHandle, epochs: SharedEpochs) -> None:
        self._finder, self._epochs, self._board = handle.finder, epochs, Board.attach(handle.board)
        self._view = self._attach(handle.tables, None)

    @property
    def changes(self) -> int:
        """Number of changes that have begun."""
        return self._board.number

    @property
    def sizes(self) -> list[int]:
        """Number of rows of each table."""
        return self._current().layout.sizes

    def look_up(self, ids: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        """Pool the rows of ids; see `ServingRows.look_up`."""
        with self._epochs.read():
            view = self._current()
            rows = self._finder.find(ids, offsets, view.directory, view.redirected)
            return self._current().tables.look_up(rows, offsets)  # a found row may be in memory that is newer than the view

    def _current(self) -> _View:
        view = self._view
        if self._board.number != view.number:
            view = self._view = self._attach(view.tables, view)
        return view

    def _attach(self, tables: PackedTables, before: _View | None) -> _View:
        """Map the newest layout. Memory that was mapped before is not mapped again."""
        while True:
            number, layout = self._board.read()
            try:
                if before is None or before.layout.rows != layout.rows:
                    tables = tables.attached(GrowingMemory.attach(layout.rows))
                maps = [self._memory(at, handle, before) for at, handle in enumerate(layout.maps)]
            except StaleRange:
                if self._board.number == number:
                    raise
                continue  # replaced meanwhile
            return _View(number, layout, tables, maps, _directory(layout, maps), _redirected(layout, maps))

    @staticmethod
    def _memory(at: int, handle: MemoryHandle, before: _View | None) -> GrowingMemory:
        held = before is not None and at < len(before.maps) and before.layout.maps[at] == handle
        return before.maps[at] if before is not None and held else GrowingMemory.attach(handle)


def _directory(layout: Layout, maps: list[GrowingMemory]) -> Ints:
    """Return the address of the first slot, and the number of slots less one, of each segment, int64 [S, 2]."""
    memory, begin, slots = layout.segments.T
    bases = np.array([own.bytes.ctypes.data for own in maps], np.int64)
    return np.stack([bases[memory] + begin, slots - 1], 1) if len(slots) else np.empty((0, 2), np.int64)


def _redirected(layout: Layout, maps: list[GrowingMemory]) -> Ints | None:
    if layout.redirected is None:
        return None
    memory, begin, slots = layout.redirected
    return maps[memory].bytes[begin : begin + slots * SLOT_BYTES].view(np.int64).reshape(-1, 2)
