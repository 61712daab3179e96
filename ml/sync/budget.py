"""The byte budget of deltas: the most valuable rows are published first, and the others are held back for later deltas.

The value of a row is its change times its traffic, divided by its bytes:

- Change is the distance between the row's weights and the weights that receivers have. It is estimated from a random projection
  of each published row to four numbers (Alon, Matias and Szegedy, 1996), so that no second copy of the tables is needed. For a
  new row, receivers have zeros.
- Traffic is the share of recent deltas in which the row was changed, which estimates the probability that the next slice looks
  it up. Recent deltas have more weight: the share decays by `DECAY` per delta.

Both are computed from deltas alone, for every kind of table and optimizer, and on the first of several ranks only. Accumulated
squared gradients would be a cheaper measure of change, but they mean something else under each optimizer, and tables without
one do not have them.

An eighth of the budget is reserved for the rows that have waited longest, so every row is published eventually. Deleted ids and
the dense part are always published completely.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from ml.artifacts.delta import ModelDelta
from ml.artifacts.snapshot import TABLES, Tensors
from ml.embeddings.delta import TableDelta
from ml.embeddings.inference.formats import row_bytes
from ml.sync.ledger import Ledger
from ml.sync.manifest import RowFormat

DECAY = 0.8
OLDEST_SHARE = 8
_INTEGER_BYTES = 8
Place = tuple[str, str]
"""Path of a collection in the model, and the name of a table in its deltas."""


@dataclass(frozen=True)
class _Candidates:
    """Changed rows of one table that receivers do not have.

    Attributes:
        rows: The rows, sorted by key.
        waiting: Number of the delta in which each row was first held back or changed, int64 [U].
    """

    rows: TableDelta
    waiting: NDArray[np.int64]


class Backlog:
    """Chooses the rows of each delta of a run, and keeps the rows that are held back.

    Args:
        byte_budget: Largest number of bytes of rows in a delta, including their keys. At least one row is published.
        row_format: Format of published rows.
        tensors: What `tensors` returned, to continue a run.

    Example:
        >>> from ml.embeddings.delta import Delta
        >>> rows = TableDelta(torch.tensor([7, 8]), torch.tensor([[1.0], [9.0]]), None, torch.tensor([], dtype=torch.int64))
        >>> backlog = Backlog(byte_budget=12, row_format="float32")
        >>> first, pending = backlog.select(ModelDelta({}, {"bags": Delta(0, 1, 0, {"item": rows})}))
        >>> first.tables["bags"].tables["item"].keys, pending
        (tensor([8]), 1)
        >>> nothing = TableDelta(rows.deleted, rows.weights[:0], None, rows.deleted)
        >>> second, pending = backlog.select(ModelDelta({}, {"bags": Delta(1, 1, 0, {"item": nothing})}))
        >>> second.tables["bags"].tables["item"].keys, pending
        (tensor([7]), 0)
    """

    def __init__(self, byte_budget: int, row_format: RowFormat, tensors: Mapping[str, torch.Tensor] | None = None) -> None:
        self._budget = byte_budget
        self._format: RowFormat = row_format
        self._number = 0
        self._pending: dict[Place, _Candidates] = {}
        self._ledgers: dict[Place, Ledger] = {}
        if tensors is not None:
            self._restore(tensors)

    def begin(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Record the weights that receivers load at the start of a run.

        Args:
            weights: The tensors of `ml.artifacts.weights.weights_of`. Tensors of the dense part are ignored.
        """
        for name, tensor in weights.items():
            path, _, own = name.removeprefix(TABLES).partition("/")
            if name.startswith(TABLES) and own.endswith(".weight"):
                ids = weights.get(f"{name.removesuffix('weight')}id")
                keys = np.arange(len(tensor)) if ids is None else ids.numpy()
                self._ledger((path, own.removesuffix(".weight")), tensor.shape[1]).published(keys, tensor.numpy(), self._number)

    def select(self, delta: ModelDelta, everything: bool = False) -> tuple[ModelDelta, int]:
        """Choose the rows to publish now.

        Args:
            delta: All changes since the last call.
            everything: Whether to publish all rows, whatever the budget.

        Returns:
            The delta to publish, and the number of rows that are held back.
        """
        self._number += 1
        found = {(path, name): self._candidates((path, name), table) for path, name, table in _tables(delta)}
        chosen = self._choose(found, everything)
        tables: dict[str, dict[str, TableDelta]] = {path: {} for path in delta.tables}
        for place, held in found.items():
            path, name = place
            mask = chosen[place]
            tables[path][name] = sent = _rows(held.rows, mask)
            self._ledgers[place].published(sent.keys.numpy(), sent.weights.numpy(), self._number)
            kept = replace(_rows(held.rows, ~mask), deleted=torch.empty(0, dtype=torch.int64))
            self._pending[place] = _Candidates(kept, held.waiting[~mask])
        selected = {path: replace(own, tables=tables[path]) for path, own in delta.tables.items()}
        return replace(delta, tables=selected), self.pending

    @property
    def pending(self) -> int:
        """Number of rows that are held back."""
        return sum(len(held.waiting) for held in self._pending.values())

    def tensors(self) -> Tensors:
        """Return what the next choice depends on, for a checkpoint. Later choices do not change it."""
        found: Tensors = {"number": torch.tensor(self._number)}
        for (path, name), ledger in self._ledgers.items():
            found |= {f"{path}/{name}/ledger.{kind}": torch.from_numpy(a.copy()) for kind, a in ledger.arrays().items()}
        for (path, name), held in self._pending.items():
            pending = {kind: tensor for kind, tensor in vars(held.rows).items() if isinstance(tensor, torch.Tensor)}
            pending["waiting"] = torch.from_numpy(held.waiting)
            found |= {f"{path}/{name}/pending.{kind}": tensor for kind, tensor in pending.items()}
        return found

    def _restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._number = int(tensors["number"])
        parts: dict[Place, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            if name != "number":
                place, _, kind = name.rpartition("/")
                path, _, table = place.partition("/")
                parts.setdefault((path, table), {})[kind] = tensor
        for place, own in parts.items():
            arrays = {kind.removeprefix("ledger."): t.numpy().copy() for kind, t in own.items() if kind.startswith("ledger.")}
            self._ledgers[place] = Ledger(DECAY, arrays)
            held = {kind.removeprefix("pending."): t for kind, t in own.items() if kind.startswith("pending.")}
            if held:
                waiting = held.pop("waiting").numpy()
                self._pending[place] = _Candidates(TableDelta(**{"seen": None, **held}), waiting)

    def _ledger(self, place: Place, dim: int) -> Ledger:
        if place not in self._ledgers:
            self._ledgers[place] = Ledger.of(DECAY, dim)
        return self._ledgers[place]

    def _candidates(self, place: Place, table: TableDelta) -> _Candidates:
        """Merge the changes of a table with the rows that were held back. Newer weights win; deleted rows are left out."""
        ledger = self._ledger(place, table.weights.shape[1])
        ledger.delete(table.deleted.numpy())
        ledger.changed(table.keys.numpy(), self._number)
        waiting = np.full(len(table.keys), self._number)
        if (before := self._pending.get(place)) is None or not len(before.waiting):
            return _Candidates(table, waiting)
        old, new = before.rows.keys.numpy(), table.keys.numpy()
        deleted = np.isin(old, table.deleted.numpy())
        at = np.searchsorted(new, old).clip(max=max(len(new) - 1, 0))
        again = new[at] == old if len(new) else np.zeros(len(old), bool)
        waiting[at[again & ~deleted]] = before.waiting[again & ~deleted]
        kept = torch.from_numpy(~again & ~deleted)
        keys = torch.cat([before.rows.keys[kept], table.keys])
        order = keys.argsort()
        seen = None
        if table.seen is not None and before.rows.seen is not None:
            seen = torch.cat([before.rows.seen[kept], table.seen])[order]
        weights = torch.cat([before.rows.weights[kept], table.weights])[order]
        merged = TableDelta(keys[order], weights, seen, table.deleted)
        return _Candidates(merged, np.concatenate([before.waiting[kept.numpy()], waiting])[order.numpy()])

    def _choose(self, found: Mapping[Place, _Candidates], everything: bool) -> dict[Place, NDArray[np.bool_]]:
        """Choose rows of all tables within the budget. Returns a mask for each table, bool [U]."""
        costs = {place: self._cost(held.rows) for place, held in found.items()}
        if everything or sum(costs[place] * len(held.waiting) for place, held in found.items()) <= self._budget:
            return {place: np.ones(len(held.waiting), bool) for place, held in found.items()}
        cost = np.concatenate([np.full(len(held.waiting), costs[place]) for place, held in found.items()])
        value = np.concatenate([self._value(place, held.rows) for place, held in found.items()]) / cost
        waiting = np.concatenate([held.waiting for held in found.values()])
        chosen = np.zeros(len(cost), bool)
        oldest = np.lexsort((-value, waiting))
        oldest = oldest[waiting[oldest] < self._number]
        chosen[oldest[np.cumsum(cost[oldest]) <= self._budget // OLDEST_SHARE]] = True
        best = np.argsort(-value, kind="stable")
        best = best[~chosen[best]]
        chosen[best[np.cumsum(cost[best]) <= self._budget - cost[chosen].sum()]] = True
        if not chosen.any():
            chosen[best[0]] = True
        ends = np.cumsum([len(held.waiting) for held in found.values()])
        return dict(zip(found, np.split(chosen, ends[:-1]), strict=True))

    def _cost(self, rows: TableDelta) -> int:
        """Return the bytes of one published row."""
        keys = _INTEGER_BYTES * (1 if rows.seen is None else 2)
        return row_bytes(self._format, rows.weights.shape[1]) + keys

    def _value(self, place: Place, rows: TableDelta) -> NDArray[np.float64]:
        return self._ledgers[place].change_times_traffic(rows.keys.numpy(), rows.weights.numpy(), self._number)


def _tables(delta: ModelDelta) -> list[tuple[str, str, TableDelta]]:
    return [(path, name, table) for path, own in delta.tables.items() for name, table in own.tables.items()]


def _rows(table: TableDelta, mask: NDArray[np.bool_]) -> TableDelta:
    """Select the updated rows of a table, and keep its deleted ids."""
    if mask.all():
        return table
    kept = torch.from_numpy(mask)
    seen = None if table.seen is None else table.seen[kept]
    return replace(table, keys=table.keys[kept], weights=table.weights[kept], seen=seen)
