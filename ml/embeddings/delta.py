"""What changed in embedding tables between two steps: the unit that a trainer sends and a replica applies.

Deltas are pure data. Collections of tables create and apply them (`ml.embeddings.interface`); sending them is not done here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

_SPAN = "span"  # no table's tensor: those have a dot in their names


class Gap(ValueError):
    """Changes are missing between a receiver's step and a delta, or the sender no longer knows them: load a snapshot."""


@dataclass(frozen=True)
class TableDelta:
    """The rows of one table that were updated or deleted.

    Args:
        keys: Ids of the updated rows where the table stores ids, row numbers where its size is fixed. int64 [U], each once.
        weights: The rows' weights after their last update, float32 [U, D].
        seen: Latest event time of each row, int64 [U], whole seconds since 1970 UTC; None for tables of a fixed size.
        deleted: Ids that were deleted, int64 [G]. An id that was admitted again later is also among `keys`.

    Raises:
        ValueError: If the shapes or dtypes do not belong together.
    """

    keys: torch.Tensor
    weights: torch.Tensor
    seen: torch.Tensor | None
    deleted: torch.Tensor

    def __post_init__(self) -> None:
        integers = [self.keys, self.deleted] + ([] if self.seen is None else [self.seen])
        if self.weights.dtype != torch.float32 or any(tensor.dtype != torch.int64 for tensor in integers):
            raise ValueError(f"expected float32 weights and int64 keys, found {self.weights.dtype}, {self.keys.dtype}")
        rows = {len(tensor) for tensor in (self.keys, self.weights, self.seen) if tensor is not None}
        if len(rows) != 1 or self.weights.dim() != 2 or any(tensor.dim() != 1 for tensor in integers):
            raise ValueError(f"weights {tuple(self.weights.shape)} do not belong to keys {tuple(self.keys.shape)}")

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in (self.keys, self.weights, self.seen, self.deleted) if tensor is not None)


@dataclass(frozen=True)
class Delta:
    """The changes of a collection of tables after step `since`, up to and including step `step`.

    Steps count the updates of one collection, and are comparable only within the history of that collection: a model that is
    trained again from an earlier day counts other updates under the same numbers.

    Args:
        since: The step after which changes are included.
        step: The step that a receiver is at once it has applied the delta.
        time: The latest event time in training, microseconds since 1970 UTC.
        tables: The changes of each table, by name. The rows of a compositional table are split over several part tables,
            named `<table>.<part>`.

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
        """Updated rows of all tables."""
        return sum(len(table.keys) for table in self.tables.values())

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(table.nbytes for table in self.tables.values())

    def to_tensors(self) -> dict[str, torch.Tensor]:
        """Flatten to named tensors, as safetensors stores them.

        Returns:
            `<table>.keys`, `<table>.weights`, `<table>.seen` (where there is one) and `<table>.deleted` of each table; `span`,
            int64 [3]: since, step and time.
        """
        found = {_SPAN: torch.tensor([self.since, self.step, self.time])}
        for name, table in self.tables.items():
            found |= {f"{name}.{kind}": tensor for kind, tensor in vars(table).items() if tensor is not None}
        return found

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor]) -> Delta:
        """Rebuild a delta from the tensors of `to_tensors`.

        Raises:
            ValueError: If tensors are missing, or do not belong together.
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
        return cls(since, step, time, {name: TableDelta(**{"seen": None, **own}) for name, own in parts.items()})


def merge_deltas(shares: Sequence[Delta]) -> Delta:
    """Merge the deltas of the ranks that share the rows of one collection among them.

    Args:
        shares: One delta per rank, all of the same `since` and `step`; each row is in one of them.

    Returns:
        The delta of the whole collection, rows in the order of their keys.

    Raises:
        ValueError: If the shares are of different spans or tables.
    """
    first = shares[0]
    if any(
        (share.since, share.step, share.tables.keys()) != (first.since, first.step, first.tables.keys()) for share in shares
    ):
        raise ValueError(f"expected deltas of one span and the same tables, found {[(s.since, s.step) for s in shares]}")
    tables = {name: _merged([share.tables[name] for share in shares]) for name in first.tables}
    return Delta(first.since, first.step, max(share.time for share in shares), tables)


def _merged(parts: Sequence[TableDelta]) -> TableDelta:
    keys = torch.cat([part.keys for part in parts])
    order = keys.argsort()
    seen = [part.seen for part in parts if part.seen is not None]
    return TableDelta(
        keys[order],
        torch.cat([part.weights for part in parts])[order],
        torch.cat(seen)[order] if seen else None,
        torch.cat([part.deleted for part in parts]).sort().values,
    )


@dataclass(frozen=True)
class TableShape:
    """What a table's deltas look like.

    Args:
        width: Weights of a row.
        rows: Number of rows where that is fixed; None where the table stores ids.
    """

    width: int
    rows: int | None


class DeltaReceiver(ABC):
    """A collection of tables that deltas can be applied to."""

    @property
    @abstractmethod
    def step(self) -> int:
        """Updates of the collection so far: the step that the next delta must follow on."""

    @abstractmethod
    def delta_shapes(self) -> Mapping[str, TableShape]:
        """Return the shape of each table that a delta may contain, by its name there."""

    def accepts(self, delta: Delta) -> bool:
        """Check a delta without applying it.

        Returns:
            True if the delta is new, False if its changes were applied before.

        Raises:
            Gap: If changes between this collection's step and the delta's beginning are missing.
            ValueError: If the delta is of other tables.
        """
        return check_delta(delta, self.step, self.delta_shapes())

    def apply_delta(self, delta: Delta) -> bool:
        """Update, insert and delete rows as a delta says. (`apply` is the name of a method of every `torch.nn.Module`.)

        A delta may overlap with what was applied before: rows have the weights of the delta afterwards. It must not run at the
        same time as a training step.

        Args:
            delta: The changes; its `since` is at most this collection's `step`.

        Returns:
            True if the delta was applied, False if its changes were applied before.

        Raises:
            Gap: If changes between this collection's step and the delta's beginning are missing; nothing is changed.
            ValueError: If the delta is of other tables; nothing is changed.
        """
        if not self.accepts(delta):
            return False
        self._write_delta(delta)
        return True

    @abstractmethod
    def _write_delta(self, delta: Delta) -> None:
        """Apply a delta that was accepted."""


def check_delta(delta: Delta, step: int, shapes: Mapping[str, TableShape]) -> bool:
    """Check whether tables of some shapes that are at a step can apply a delta; see `DeltaReceiver.accepts`."""
    if unknown := sorted(delta.tables.keys() - shapes.keys()):
        raise ValueError(f"the delta has tables {unknown}, which are not among {sorted(shapes)}")
    for name, table in delta.tables.items():
        _check_table(name, shapes[name], table)
    if delta.step <= step:
        return False
    if delta.since > step:
        way_out = f"load a snapshot, or request a delta since {step}"
        raise Gap(f"the tables are at step {step}, the delta begins after {delta.since}: {way_out}")
    return True


def _check_table(name: str, shape: TableShape, table: TableDelta) -> None:
    """Raises `ValueError` for rows that do not fit a table."""
    if table.weights.shape[1] != shape.width:
        raise ValueError(f"table {name!r} has rows of {shape.width} weights, the delta has {table.weights.shape[1]}")
    if shape.rows is None:
        if table.seen is None:
            raise ValueError(f"table {name!r} stores ids, the delta has row numbers: it is of another kind of table")
    elif table.seen is not None or len(table.deleted):
        raise ValueError(f"table {name!r} has a fixed number of rows, the delta has ids: it is of another kind of table")
    elif len(table.keys) and not 0 <= int(table.keys.min()) <= int(table.keys.max()) < shape.rows:
        raise ValueError(f"table {name!r} has {shape.rows} rows, the delta has row {int(table.keys.max())}")


def apply_deltas(receivers: Mapping[str, DeltaReceiver], deltas: Mapping[str, Delta]) -> bool:
    """Apply deltas to several collections, or to none where one of them is refused.

    Args:
        receivers: The collections, by name.
        deltas: A delta for each of them.

    Returns:
        True if a collection was changed.

    Raises:
        Gap: If changes between a collection's step and its delta's beginning are missing; nothing is changed.
        ValueError: If the names differ, or a delta is of other tables; nothing is changed.
    """
    if faults := sorted(receivers.keys() ^ deltas.keys()):
        raise ValueError(f"expected deltas of the collections {sorted(receivers)}; {faults} are missing or not expected")
    new = [name for name, receiver in receivers.items() if receiver.accepts(deltas[name])]
    for name in new:
        receivers[name].apply_delta(deltas[name])
    return bool(new)
