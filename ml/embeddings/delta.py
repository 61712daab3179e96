"""Deltas: the rows of embedding tables that changed between two steps, which a trainer creates and a receiver applies.

Deltas are plain data. Table collections create and apply them (`ml.embeddings.interface`). This module does not send them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ml.embeddings.inference.formats import Format, row_bytes
from ml.embeddings.inference.pack import unpack

_SPAN = "span"  # cannot clash with a table's tensor, because those names contain a dot


class Gap(ValueError):
    """Changes after a receiver's step are missing from a delta, or no longer available at the sender: load a snapshot."""


@dataclass(frozen=True)
class TableDelta:
    """The updated and deleted rows of one table.

    Args:
        keys: Unique keys of the U updated rows, int64 [U]: ids if the table stores ids, row numbers if its size is fixed.
        weights: Weights of the rows after their last update, float32 [U, D]; in another format than float32, packed rows, uint8
            [U, bytes of a row], as `ml.embeddings.inference.pack` returns them.
        seen: Latest event time of each row, int64 [U], in whole seconds since 1970 UTC; None for tables of a fixed size.
        deleted: Ids that were deleted, int64 [G]. If an id was admitted again later, it is also in `keys`.
        format: Format of the weights. Deltas that a trainer creates are float32.

    Raises:
        ValueError: If shapes or dtypes do not match.
    """

    keys: torch.Tensor
    weights: torch.Tensor
    seen: torch.Tensor | None
    deleted: torch.Tensor
    format: Format = "float32"

    def __post_init__(self) -> None:
        integers = [self.keys, self.deleted] + ([] if self.seen is None else [self.seen])
        wanted = "float32" if self.format == "float32" else "uint8"
        if self.weights.dtype != getattr(torch, wanted) or any(tensor.dtype != torch.int64 for tensor in integers):
            raise ValueError(f"expected {wanted} weights and int64 keys, found {self.weights.dtype}, {self.keys.dtype}")
        rows = {len(tensor) for tensor in (self.keys, self.weights, self.seen) if tensor is not None}
        if len(rows) != 1 or self.weights.dim() != 2 or any(tensor.dim() != 1 for tensor in integers):
            raise ValueError(f"shape {tuple(self.weights.shape)} of weights does not match {tuple(self.keys.shape)} of keys")

    @property
    def nbytes(self) -> int:
        """Size of all tensors in bytes."""
        return sum(tensor.nbytes for tensor in (self.keys, self.weights, self.seen, self.deleted) if tensor is not None)

    def float_weights(self) -> torch.Tensor:
        """Return the weights as float32 [U, D]."""
        return self.weights if self.format == "float32" else unpack(self.weights, self.format)


@dataclass(frozen=True)
class Delta:
    """The changes of a table collection after step `since`, up to and including step `step`.

    Steps count the updates of one collection. They can be compared only within one training history: if a model is trained
    again from an earlier day, the same step numbers count different updates.

    Args:
        since: The delta contains the changes after this step. If it equals `step`, the rows are from earlier steps and were
            held back by the sender; they are applied to receivers at that step.
        step: Step of a receiver after it has applied the delta.
        time: Latest event time seen in training, in microseconds since 1970 UTC.
        tables: Changes by table name. A compositional table has several part tables, named `<table>.<part>`.

    Example:
        >>> rows = TableDelta(torch.tensor([7]), torch.ones(1, 4), seen=None, deleted=torch.tensor([], dtype=torch.int64))
        >>> delta = Delta(since=3, step=5, time=0, tables={"item": rows})
        >>> sorted(delta.to_tensors())
        ['item.deleted', 'item.keys', 'item.weights', 'span']
        >>> Delta.from_tensors(delta.to_tensors()).tables["item"].keys
        tensor([7])
        >>> delta.rows, delta.nbytes
        (1, 24)
    """

    since: int
    step: int
    time: int
    tables: Mapping[str, TableDelta]

    @property
    def rows(self) -> int:
        """Number of updated rows in all tables."""
        return sum(len(table.keys) for table in self.tables.values())

    @property
    def nbytes(self) -> int:
        """Size of all tensors in bytes."""
        return sum(table.nbytes for table in self.tables.values())

    def to_tensors(self) -> dict[str, torch.Tensor]:
        """Convert the delta to named tensors, which safetensors can store.

        Returns:
            For each table, `<table>.keys`, `<table>.weights`, `<table>.deleted`, and `<table>.seen` unless it is None. `span`,
            int64 [3], holds `since`, `step` and `time`.
        """
        found = {_SPAN: torch.tensor([self.since, self.step, self.time])}
        for name, table in self.tables.items():
            found |= {f"{name}.{kind}": held for kind, held in vars(table).items() if isinstance(held, torch.Tensor)}
        return found

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor], format: Format = "float32") -> Delta:
        """Convert the tensors that `to_tensors` returned to a delta.

        Args:
            tensors: The tensors by name.
            format: Format of the weights of all tables.

        Raises:
            ValueError: If tensors are missing or unexpected, or their shapes or dtypes do not match.
        """
        parts: dict[str, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            if name != _SPAN:
                table, _, kind = name.rpartition(".")
                parts.setdefault(table, {})[kind] = tensor
        for table, found in parts.items():
            if faults := {"keys", "weights", "deleted"} ^ (found.keys() - {"seen"}):
                raise ValueError(f"delta of table {table!r}: {sorted(faults)} are missing or not expected")
        if _SPAN not in tensors or tensors[_SPAN].shape != (3,):
            raise ValueError("delta: expected a tensor 'span' of three numbers: since, step and time")
        since, step, time = tensors[_SPAN].tolist()
        return cls(since, step, time, {name: TableDelta(**{"seen": None, **own}, format=format) for name, own in parts.items()})


def merge_deltas(shares: Sequence[Delta]) -> Delta:
    """Merge the deltas of the ranks that share the rows of one collection.

    Args:
        shares: One delta per rank, with equal `since` and `step`. Each row is in exactly one of them.

    Returns:
        The delta of the whole collection, sorted by key.

    Raises:
        ValueError: If the steps or tables of the shares differ.
    """
    first = shares[0]
    if any(
        (share.since, share.step, share.tables.keys()) != (first.since, first.step, first.tables.keys()) for share in shares
    ):
        steps = [(share.since, share.step) for share in shares]
        raise ValueError(f"expected deltas of the same steps and tables, found steps {steps}")
    tables = {name: _merged([share.tables[name] for share in shares]) for name in first.tables}
    return Delta(first.since, first.step, max(share.time for share in shares), tables)


def _merged(parts: Sequence[TableDelta]) -> TableDelta:
    keys = torch.cat([part.keys for part in parts])
    order = keys.argsort()
    seen = [part.seen for part in parts if part.seen is not None]
    return TableDelta(
        keys[order],
        torch.cat([part.float_weights() for part in parts])[order],
        torch.cat(seen)[order] if seen else None,
        torch.cat([part.deleted for part in parts]).sort().values,
    )


@dataclass(frozen=True)
class TableShape:
    """Shape of a table, which its deltas must match.

    Args:
        width: Number of weights in a row.
        rows: Number of rows if it is fixed; None if the table stores ids.
    """

    width: int
    rows: int | None


class DeltaReceiver(ABC):
    """A table collection that can apply deltas."""

    @property
    @abstractmethod
    def step(self) -> int:
        """Number of updates so far. The next delta must contain all changes after this step."""

    @abstractmethod
    def delta_shapes(self) -> Mapping[str, TableShape]:
        """Return the shape of each table that a delta may contain, by the table's name in deltas."""

    def accepts(self, delta: Delta) -> bool:
        """Check a delta without applying it.

        Args:
            delta: The changes.

        Returns:
            True if the delta has new changes, False if all of its changes have already been applied.

        Raises:
            Gap: If the delta begins after this collection's step, so that changes in between are missing.
            ValueError: If the delta does not match this collection's tables.
        """
        return check_delta(delta, self.step, self.delta_shapes())

    def apply_delta(self, delta: Delta) -> bool:
        """Update, insert and delete rows according to a delta.

        A delta may overlap with changes that have already been applied; the delta's weights win. Do not call this during a
        training step. The method is not named `apply` because every `torch.nn.Module` has a method of that name.

        Args:
            delta: The changes; its `since` is at most this collection's `step`.

        Returns:
            True if the delta was applied, False if all of its changes had already been applied.

        Raises:
            Gap: If the delta begins after this collection's step, so that changes in between are missing. Nothing is changed.
            ValueError: If the delta does not match this collection's tables. Nothing is changed.
        """
        if not self.accepts(delta):
            return False
        self._write_delta(delta)
        return True

    @abstractmethod
    def _write_delta(self, delta: Delta) -> None:
        """Apply a delta for which `accepts` returned True."""


def check_delta(delta: Delta, step: int, shapes: Mapping[str, TableShape]) -> bool:
    """Check whether a receiver can apply a delta.

    Args:
        delta: The changes.
        step: The receiver's current step.
        shapes: The receiver's table shapes, by name.

    Returns:
        True if the delta has new changes, False if all of its changes have already been applied.

    Raises:
        Gap: If the delta begins after the receiver's step.
        ValueError: If the delta does not match the receiver's tables.
    """
    if unknown := sorted(delta.tables.keys() - shapes.keys()):
        raise ValueError(f"the delta has tables {unknown}, which are not among {sorted(shapes)}")
    for name, table in delta.tables.items():
        _check_table(name, shapes[name], table)
    held_back = delta.since == delta.step == step and delta.rows > 0
    if delta.step <= step and not held_back:
        return False
    if delta.since > step:
        way_out = f"load a snapshot, or request a delta since {step}"
        raise Gap(f"the tables are at step {step}, the delta begins after step {delta.since}: {way_out}")
    return True


def _check_table(name: str, shape: TableShape, table: TableDelta) -> None:
    """Check that the rows of a delta match a table."""
    packed = table.format != "float32"
    expected, unit = (row_bytes(table.format, shape.width), "bytes") if packed else (shape.width, "weights")
    if table.weights.shape[1] != expected:
        raise ValueError(f"table {name!r} has rows of {expected} {unit}, the delta has {table.weights.shape[1]}")
    if shape.rows is None:
        if table.seen is None:
            raise ValueError(f"table {name!r} stores ids, the delta has row numbers: it comes from another kind of table")
    elif table.seen is not None or len(table.deleted):
        raise ValueError(f"table {name!r} has a fixed number of rows, the delta has ids: it comes from another kind of table")
    elif len(table.keys) and not 0 <= int(table.keys.min()) <= int(table.keys.max()) < shape.rows:
        raise ValueError(f"table {name!r} has {shape.rows} rows, the delta has row {int(table.keys.max())}")


def apply_deltas(receivers: Mapping[str, DeltaReceiver], deltas: Mapping[str, Delta]) -> bool:
    """Apply deltas to several collections. If one delta is refused, no collection is changed.

    Args:
        receivers: The collections, by name.
        deltas: One delta per collection, by name.

    Returns:
        True if a collection was changed.

    Raises:
        Gap: If a delta begins after its collection's step. Nothing is changed.
        ValueError: If names differ, or a delta does not match its collection's tables. Nothing is changed.
    """
    new = accepted(receivers, deltas)
    for name in new:
        receivers[name].apply_delta(deltas[name])
    return bool(new)


def accepted(receivers: Mapping[str, DeltaReceiver], deltas: Mapping[str, Delta]) -> list[str]:
    """Check the deltas of several collections without applying them; see `apply_deltas`.

    Returns:
        Names of the collections for which the deltas have new changes.
    """
    if faults := sorted(receivers.keys() ^ deltas.keys()):
        raise ValueError(f"expected deltas of the collections {sorted(receivers)}; {faults} are missing or not expected")
    return [name for name, receiver in receivers.items() if receiver.accepts(deltas[name])]
