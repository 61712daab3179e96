"""Where the rows of a collection and the map from ids to rows are in shared memory.

The process that changes rows publishes a layout at the beginning of each change, and again whenever readers have to look
elsewhere. The number of the newest layout is therefore also a number of changes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ml.embeddings.inference.growing_memory import GrowingMemory, MemoryHandle
from ml.embeddings.inference.shared.arena import Arena, Place
from ml.embeddings.inference.shared.board import Board

_MOST = 1 << 20  # bytes of a layout
Ints = NDArray[np.int64]


class Layout(NamedTuple):
    """What a reader needs to find rows.

    Attributes:
        rows: Memory of the packed rows.
        maps: Memory of the map from ids to rows, and of redirected rows.
        segments: Memory, first byte and number of slots of each segment of the map, int64 [S, 3].
        redirected: The redirected rows; None without any.
        sizes: Number of rows of each table.
    """

    rows: MemoryHandle
    maps: list[MemoryHandle]
    segments: Ints
    redirected: Place | None
    sizes: list[int]


class LayoutWriter:
    """Publishes the layouts of one collection.

    Attributes:
        arena: Memory for the slots of its maps.
        board: The newest layout.
    """

    def __init__(self) -> None:
        self.arena, self.board = Arena(), Board.create(_MOST)
        self._placed: tuple[tuple[Ints, ...], Ints] = (), np.empty((0, 3), np.int64)  # the last segments, and their places

    def publish(self, rows: GrowingMemory, segments: tuple[Ints, ...], redirected: Ints | None, sizes: list[int]) -> None:
        """Let readers find rows as they are now.

        Args:
            rows: Memory of the packed rows, which is shared.
            segments: Slots of each segment, in the arena.
            redirected: Slots of the redirected rows, in the arena; None without any.
            sizes: Number of rows of each table.
        """
        place = self.arena.place
        if segments is not self._placed[0]:
            self._placed = segments, np.array([place(slots) for slots in segments], np.int64).reshape(-1, 3)
        maps = [memory.handle for memory in self.arena.memories]
        redirected_to = None if redirected is None else place(redirected)
        self.board.publish(Layout(rows.handle, maps, self._placed[1], redirected_to, sizes))
