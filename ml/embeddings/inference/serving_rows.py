"""Rows of tables for inference, which one thread changes while others read them.

A changed row is never written where a reader may be reading. It is written to a free row first, and published in one step: in
the map from ids to rows, or, in tables whose ids are row numbers, in a small map that redirects readers until the row has been
written in its own place. Rows that were replaced are free once the readers that began before have ended. A reader therefore
reads each row whole, before or after a change, and never waits for the writer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ml.compute.kernel_cache import jit
from ml.embeddings.collisionless.hash_map import EMPTY, HashMap
from ml.embeddings.inference.epochs import ReadEpochs
from ml.embeddings.inference.find_rows import RowFinder
from ml.embeddings.inference.kinds import Kind
from ml.embeddings.inference.packed_tables import PackedTables
from ml.embeddings.inference.row_map import RowMap
from ml.embeddings.inference.shared.attached_rows import RowsHandle
from ml.embeddings.inference.shared.epochs import SharedEpochs
from ml.embeddings.inference.shared.layout import LayoutWriter

_CHUNK_OF, _LEAST_CHUNK = 64, 1024  # a chunk is a 64th of a table's rows, which is also the memory that changes need

Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]


class Replaced(NamedTuple):
    """What a change has replaced, with which it can be undone.

    Attributes:
        keys: Keys that had a row, int64 [N].
        rows: Their packed rows before, uint8 [N, bytes of a row].
        new: Keys that had no row, int64 [M].
    """

    keys: Ints
    rows: Bytes
    new: Ints


class ServingRows:
    """Packed rows of T tables of one kind, and the way from ids to rows.

    `look_up` may be called in several threads, also during a change. After `share`, `AttachedRows` in other processes read the
    same rows. One thread at a time may change rows.

    Args:
        kind: How ids are mapped to rows. In collisionless tables, rows have ids as keys; in the others, row numbers.
        packed: The rows.
        sizes: Number of rows of each table.
        ids: Ids of the rows of each table, int64 [R]; empty unless the tables are collisionless.
        table_of: Index of the table that each of F features reads, int64 [F].
    """

    def __init__(
        self, kind: Kind, packed: PackedTables, sizes: Sequence[int], ids: Sequence[torch.Tensor], table_of: torch.Tensor
    ) -> None:
        self.kind, self.packed, self.sizes = kind, packed, list(sizes)
        self._used = list(sizes)  # rows of each table, including free ones
        self._free = [np.empty(0, np.int64) for _ in sizes]
        self._finder = RowFinder(kind, table_of, torch.tensor(self.sizes))
        self._map = RowMap()
        self._redirected: Ints | None = None  # slots of a map from rows to rows
        self._epochs: ReadEpochs | SharedEpochs = ReadEpochs()
        self._layouts: LayoutWriter | None = None  # for readers in other processes
        for table, own in enumerate(ids):
            self._map.assign(table, own.numpy(), np.arange(len(own)))

    @property
    def nbytes(self) -> int:
        """Size of the rows, including free ones, and of the map from ids to rows, in bytes."""
        return self.packed.nbytes + (self._map.nbytes if self.kind == "collisionless" else 0)

    def look_up(self, ids: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        """Pool the rows of ids; ids without a row read zeros.

        Args:
            ids: Ids ordered by feature, int64 [N].
            offsets: Offsets of the bags in `ids`, int64 [F * B + 1].

        Returns:
            Pooled rows, float32 [B, sum of the features' dimensions].
        """
        with self._epochs.read():
            segments = self._map.segments  # the reference keeps the slots in memory
            rows = self._finder.find(ids, offsets, segments.directory, self._redirected)
            return self.packed.look_up(rows, offsets)

    def share(self, epochs: SharedEpochs) -> None:
        """Move the rows and the map to memory that other processes can read while this one changes rows.

        Not during a `look_up`. Rows that are shared already stay where they are.

        Args:
            epochs: The readers of all processes; this one is the writer.
        """
        if self._layouts is not None:
            return
        self._epochs, self._layouts = epochs, LayoutWriter()
        self.packed.share()
        if self.kind == "collisionless":
            self._map.share(self._layouts.arena)
        self._publish()

    @property
    def handle(self) -> RowsHandle:
        """Identifies the rows for `AttachedRows` in other processes. Not during a change.

        Raises:
            ValueError: The rows are not shared.
        """
        if self._layouts is None:
            raise ValueError("the rows are in the memory of this process alone; call `share` first")
        return RowsHandle(self._layouts.board.handle, self._finder, self.packed.unfilled(), self._layouts.board.number)

    def _publish(self) -> None:
        """Begin a change for readers in other processes, or let them find what has changed."""
        if self._layouts is not None:
            slots = self._map.segments.slots if self.kind == "collisionless" else ()
            self._layouts.publish(self.packed.memory, slots, self._redirected, self.sizes)

    def keys_and_rows(self, table: int) -> tuple[Ints, Ints]:
        """Return the keys of a table in ascending order, and the row of each, both int64 [R]. Not during a change."""
        if self.kind == "collisionless":
            return self._map.items(table)
        return np.arange(self.sizes[table]), np.arange(self.sizes[table])

    def chunk(self, table: int) -> int:
        """Number of rows to write at a time, which bounds the memory that a change needs."""
        return max(_LEAST_CHUNK, self.sizes[table] // _CHUNK_OF)

    def write(self, table: int, keys: Ints, rows: Bytes) -> Replaced:
        """Write the rows of keys. Ids without a row are inserted.

        Args:
            table: Index of the table.
            keys: Unique keys, int64 [N]; at most `chunk` of them at a time keep the memory bounded.
            rows: Their packed rows, uint8 [N, bytes of a row].
        """
        if self.kind != "collisionless":
            return self._write_redirected(table, keys, rows)
        held = self.packed.memory  # which readers attach until the next layout is published
        places = self._take(table, len(keys))
        self._publish()
        del held
        _scatter(self.packed.rows(table), places, rows)
        replaced = self._replaced(table, keys, self._map.assign(table, keys, places))
        self.sizes[table] += len(replaced.new)
        return replaced

    def delete(self, table: int, ids: Ints) -> Replaced:
        """Delete the rows of ids in a collisionless table. Ids without a row are ignored."""
        self._publish()
        replaced = self._replaced(table, ids, self._map.remove(table, ids))
        self.sizes[table] -= len(replaced.keys)
        return replaced

    def _replaced(self, table: int, keys: Ints, places: Ints) -> Replaced:
        """Free the rows that keys had, once they are not read any more. places: EMPTY for keys without a row."""
        had = places != EMPTY
        places = places[had]
        rows = _gather(self.packed.rows(table), places)
        self._publish()
        self._epochs.wait_for_readers()
        self._map.reuse()
        self._free[table] = np.concatenate([self._free[table], places])
        return Replaced(keys[had], rows, keys[~had])

    def _take(self, table: int, count: int) -> Ints:
        """Return free rows, int64 [count]. The table grows if it has too few."""
        free, used = self._free[table], self._used[table]
        reused = free[:count]
        self._free[table], self._used[table] = free[count:], used + count - len(reused)
        self.packed.reserve(table, self._used[table])
        return np.concatenate([reused, np.arange(used, self._used[table])])

    def _write_redirected(self, table: int, rows: Ints, packed: Bytes) -> Replaced:
        size = self.sizes[table]
        beside = np.arange(size, size + len(rows))
        self.packed.reserve(table, size + len(rows))
        _scatter(self.packed.rows(table), beside, packed)
        redirected = HashMap(len(rows))
        redirected.insert(np.full(len(rows), table), rows, beside)
        slots = redirected.slots if self._layouts is None else self._layouts.arena.copy(redirected.slots)
        self._redirected = slots
        self._publish()
        self._epochs.wait_for_readers()
        before = _gather(self.packed.rows(table), rows)
        _scatter(self.packed.rows(table), rows, packed)
        self._redirected = None
        self._publish()
        self._epochs.wait_for_readers()
        if self._layouts is not None:
            self._layouts.arena.free(slots)
        return Replaced(rows, before, np.empty(0, np.int64))


def _gather(table: Bytes, places: Ints) -> Bytes:
    rows = np.empty((len(places), table.shape[1]), np.uint8)
    _copy_rows(table, places, rows)
    return rows


@jit(nogil=True)
def _copy_rows(table, places, rows):  # type: ignore[no-untyped-def]
    for i in range(len(places)):
        rows[i] = table[places[i]]


@jit(nogil=True)
def _scatter(table, places, rows):  # type: ignore[no-untyped-def]
    for i in range(len(places)):
        table[places[i]] = rows[i]
