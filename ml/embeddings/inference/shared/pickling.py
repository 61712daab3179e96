"""Models for other processes: everything is copied except rows, which stay where they are.

writer   share_rows(model, epochs), then `dump`
reader   `load`, in another process, and again after each change of what is copied
"""

from __future__ import annotations

import io
import pickle
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

from torch import nn

from ml.embeddings.inference.quantised import QuantisedBags
from ml.embeddings.inference.serving_rows import ServingRows
from ml.embeddings.inference.shared.attached_rows import AttachedRows, RowsHandle
from ml.embeddings.inference.shared.epochs import SharedEpochs
from ml.embeddings.inference.shared.ranges import RangeHandle, SharedRange

_ALIGNED = 64


class Dump(NamedTuple):
    """A pickled value for other processes.

    Attributes:
        handle: The shared memory.
        sizes: Bytes of the pickle, and then of each large array beside it, which readers do not copy.
    """

    handle: RangeHandle
    sizes: list[int]


def share_rows(model: nn.Module, epochs: SharedEpochs) -> None:
    """Move the rows of all quantised tables of a model to shared memory. Not while another thread predicts."""
    for module in model.modules():
        if isinstance(module, QuantisedBags):
            module.share(epochs)


def dump(value: Any) -> tuple[SharedRange, Dump]:
    """Pickle a value, with handles in place of rows.

    Args:
        value: A value with shared rows or none. Rows must not change during the call.

    Returns:
        The memory, which must be kept for as long as a process may call `load`, and what `load` needs.
    """
    arrays: list[pickle.PickleBuffer] = []
    file = io.BytesIO()
    _Pickler(file, protocol=5, buffer_callback=arrays.append).dump(value)
    parts = [file.getbuffer(), *(array.raw() for array in arrays)]
    begins = _begins([len(part) for part in parts])
    held = SharedRange.create(max(begins[-1], 1))
    mapped = held.map()
    for begin, part in zip(begins, parts, strict=False):
        mapped[begin : begin + len(part)] = part
    return held, Dump(held.handle, [len(part) for part in parts])


class RowsReader:
    """Loads dumps of one other process. Values that share rows there share them here.

    Args:
        epochs: The readers of the other process, among which this one is.
    """

    def __init__(self, epochs: SharedEpochs) -> None:
        self._epochs = epochs
        self._rows: WeakValueDictionary[RangeHandle, AttachedRows] = WeakValueDictionary()

    def load(self, given: Dump) -> tuple[Any, list[tuple[AttachedRows, int]]]:
        """Load a value.

        Returns:
            The value, and its collections of rows with the number of changes that it was dumped at.

        Raises:
            StaleRange: The other process has ended, or has replaced the value.
        """
        mapped = SharedRange.attach(given.handle).view().data
        parts = [mapped[begin : begin + size] for begin, size in zip(_begins(given.sizes), given.sizes, strict=False)]
        unpickler = _Unpickler(io.BytesIO(parts[0]), buffers=parts[1:])
        unpickler.rows, unpickler.epochs, unpickler.found = self._rows, self._epochs, []
        return unpickler.load(), unpickler.found


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> RowsHandle | None:
        return obj.handle if isinstance(obj, ServingRows) else None


class _Unpickler(pickle.Unpickler):
    rows: WeakValueDictionary[RangeHandle, AttachedRows]
    epochs: SharedEpochs
    found: list[tuple[AttachedRows, int]]

    def persistent_load(self, pid: RowsHandle) -> AttachedRows:
        if (rows := self.rows.get(pid.board)) is None:
            rows = self.rows[pid.board] = AttachedRows(pid, self.epochs)
        self.found.append((rows, pid.changes))
        return rows


def _begins(sizes: list[int]) -> list[int]:
    """Return the first byte of each part, and the end of the last one."""
    begins = [0]
    for size in sizes:
        begins.append(begins[-1] + -(-size // _ALIGNED) * _ALIGNED)
    return begins
