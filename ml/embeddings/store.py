"""The rows of some tables of one dimension: which ids have one, what they hold, and what becomes of them.

No two ids ever share a row. Here rows are found, admitted, updated and let go; how bags are made of them is `pooling`, how a
model sees them `collisionless`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml.embeddings.admission import admit, keep_waiting, touch
from ml.embeddings.idmap import IdMap, find_many, slots_for
from ml.embeddings.optimizers import CODES, RowOptimizer
from ml.embeddings.pooling import pooler, scratch, trainer
from ml.embeddings.records import COUNT, DEFAULT, FREE, ID, SEEN, TABLE, VERSION, WEIGHTS, Records, width_of

MICROSECONDS = 1_000_000
_FIRST_ROWS = 1024
_UNBOUNDED = 1 << 40


@dataclass(frozen=True)
class TableRules:
    """Of one table. admit_after: an id has a row from its so-many-th occurrence on. ttl_seconds: rows not seen for so long, by
    event time, are let go by `Store.expire`; None is never. max_rows: ids beyond so many have none."""

    name: str
    admit_after: int = 1
    ttl_seconds: float | None = None
    max_rows: int | None = None


class Gap(ValueError):
    """A delta does not follow on what a store holds."""


@dataclass(frozen=True)
class Delta:
    """What changed after version `since` up to `version`. tables int32, ids and seen int64 and weights float32 [U, dim] of U
    rows; gone_tables int32 and gone_ids int64 of ids that were let go, and may be among the rows again."""

    since: int
    version: int
    tables: NDArray[np.int32]
    ids: NDArray[np.int64]
    seen: NDArray[np.int64]
    weights: NDArray[np.float32]
    gone_tables: NDArray[np.int32]
    gone_ids: NDArray[np.int64]


class Store:
    """Rows of `dim` float32 weights, each with its optimizer's state, for tables numbered as `rules` are.

    The default row, all zeros, stands for whatever has none: it is read and never updated.
    """

    def __init__(self, rules: Sequence[TableRules], dim: int, optimizer: RowOptimizer, init_scale: float, seed: int) -> None:
        self.rules, self.dim, self.optimizer, self.init_scale = tuple(rules), dim, optimizer, init_scale
        self.ids = IdMap()
        self.records = Records.zeros(_FIRST_ROWS, width_of(dim, optimizer.words(dim)))
        self.records.words[DEFAULT, TABLE] = FREE
        self.waiting = _no_waiting(0)
        self.free = np.empty(0, np.int64)
        self._state = np.array([DEFAULT + 1, 0, 0], np.int64)  # next unused row, free rows, waiting ids
        self.live = np.zeros(len(rules), np.int64)
        self.version = 0
        self.gone: list[NDArray[np.int64]] = []  # of each time that rows were let go, [n, 3]: version, table, id
        self._thresholds = np.array([rule.admit_after for rule in rules], np.int64)
        self._caps = np.array([rule.max_rows or _UNBOUNDED for rule in rules], np.int64)
        self._ttl = np.array([round((rule.ttl_seconds or 0) * MICROSECONDS) for rule in rules], np.int64)
        self._seeds = np.array([_seed_of(seed, rule.name) for rule in rules], np.uint64)
        self._kind, self._constants = CODES[optimizer.kind], optimizer.constants()
        self._scratch = scratch(1)

    def __len__(self) -> int:
        """Ids that have a row."""
        return int(self.live.sum())

    @property
    def nbytes(self) -> int:
        """Bytes of rows in use, of the map and of what waits."""
        return (
            int(self._state[0]) * self.records.floats.itemsize * self.records.floats.shape[1]
            + self.ids.nbytes
            + self.waiting.nbytes
        )

    @property
    def waiting_ids(self) -> int:
        """Ids that are counted and have no row yet."""
        return int((self.waiting[:, 1] & ((1 << 40) - 1) > 0).sum() - (self.waiting[:, 1] == -1).sum())

    def find(self, tables: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of N ids, int64 [N], the default row for those without; nothing is counted, admitted or touched."""
        rows = np.empty(len(ids), np.int64)
        find_many(self.ids.slots, tables, ids, rows)
        return np.maximum(rows, DEFAULT)

    def find_for_training(self, tables: NDArray[np.int64], ids: NDArray[np.int64], now: int, lr: float) -> NDArray[np.int64]:
        """The same, and every occurrence counts; ids that are due get a row. now: event time, microseconds since 1970 UTC."""
        rows = np.empty(len(ids), np.int64)
        find_many(self.ids.slots, tables, ids, rows)
        missing = np.empty(len(ids), np.int64)
        without = touch(self.records.words, self.records.longs, rows, missing, now)
        if without:
            self._reserve(without)
            free = int(self._state[1])
            before = int(self._state[0])
            admit(
                self.ids.slots, self.waiting, self.records.floats, self.records.words, self.records.longs, tables, ids, rows,
                missing[:without], now, self.free, self._state, self._thresholds, self._caps, self.live, self._seeds,
                np.float32(self.init_scale), self.dim, self._kind, self._constants, np.float32(lr), self.version,
            )  # fmt: skip
            self.ids.size += int(self._state[0]) - before + free - int(self._state[1])
        return rows

    def pool(
        self, rows: NDArray[np.int64], offsets: NDArray[np.int64], weights: NDArray[np.float32], means: NDArray[np.bool_]
    ) -> NDArray[np.float32]:
        """Bags, float32 [B, F * dim]; see `pooling`."""
        examples = (len(offsets) - 1) // len(means)
        out = np.empty((examples, len(means) * self.dim), np.float32)
        pooler(self.dim)(self.records.floats, rows, offsets, weights, means, out, 0, examples)
        return out

    def update(
        self,
        rows: NDArray[np.int64],
        offsets: NDArray[np.int64],
        weights: NDArray[np.float32],
        means: NDArray[np.bool_],
        groups: NDArray[np.int64],
        grad: NDArray[np.float32],
        lr: float,
    ) -> None:
        """One step of the optimizer on each row that was read, by the summed gradient of its occurrences."""
        self.version += 1
        if len(self._scratch[1]) < len(rows):
            self._scratch = scratch(2 * len(rows))
        trainer(self.dim, self._kind)(
            self.records.floats, self.records.words, rows, offsets, weights, means, grad, groups, self._constants,
            np.float32(lr), self.version, 0, 1, *self._scratch,
        )  # fmt: skip

    def expire(self, now: int) -> int:
        """Let go of rows, and of waiting ids, not seen for their table's time to live. How many rows that was."""
        used = int(self._state[0])
        tables = self.records.words[:used, TABLE]
        held = np.flatnonzero(tables != FREE)
        ttl = self._ttl[tables[held]]
        gone = held[(ttl > 0) & (self.records.longs[held, SEEN] < now - ttl)]
        self._let_go(gone)
        kept = _no_waiting(int(self._state[2]))
        self._state[2] = keep_waiting(self.waiting, kept, now, self._ttl)
        self.waiting = kept
        return len(gone)

    def delta(self, since: int) -> Delta:
        """What changed after version `since`: rows that were updated or admitted, and ids that were let go."""
        used = int(self._state[0])
        words = self.records.words[:used]
        rows = np.flatnonzero((words[:, VERSION] > since) & (words[:, TABLE] != FREE))
        gone = np.concatenate([np.empty((0, 3), np.int64), *(part for part in self.gone if part[0, 0] > since)])
        return Delta(
            since=since,
            version=self.version,
            tables=words[rows, TABLE],
            ids=self.records.longs[rows, ID],
            seen=self.records.longs[rows, SEEN],
            weights=self.records.floats[rows, WEIGHTS : WEIGHTS + self.dim],
            gone_tables=gone[:, 1].astype(np.int32),
            gone_ids=gone[:, 2],
        )

    def apply(self, delta: Delta) -> bool:
        """Take over what a delta of another store says; False where that is here already.

        Raises `Gap` where something between this store's version and the delta's is missing.
        """
        if delta.version <= self.version:
            return False
        if delta.since > self.version:
            way_out = f"load a snapshot, or ask for a delta since {self.version}"
            raise Gap(f"the table is at version {self.version}, the delta begins after {delta.since}: {way_out}")
        gone = self.find(delta.gone_tables.astype(np.int64), delta.gone_ids)
        self._let_go(np.unique(gone[gone != DEFAULT]))
        tables = delta.tables.astype(np.int64)
        rows = self.find(tables, delta.ids)
        new = np.flatnonzero(rows == DEFAULT)
        self._reserve(len(new))
        rows[new] = self._take(len(new))
        self.ids.insert(tables[new], delta.ids[new], rows[new])
        self.live += np.bincount(tables[new], minlength=len(self.live))
        self.records.floats[rows] = 0
        self.records.longs[rows, ID], self.records.longs[rows, SEEN] = delta.ids, delta.seen
        self.records.words[rows, TABLE], self.records.words[rows, VERSION] = delta.tables, delta.version
        self.records.floats[rows, WEIGHTS : WEIGHTS + self.dim] = delta.weights
        self.version = delta.version
        return True

    def _take(self, count: int) -> NDArray[np.int64]:
        """Rows that nothing is in: those let go first, then such as were never used."""
        free = int(self._state[1])
        reused = self.free[max(free - count, 0) : free]
        fresh = np.arange(count - len(reused)) + self._state[0]
        self._state[0] += len(fresh)
        self._state[1] -= len(reused)
        return np.concatenate([reused, fresh])

    def table(self, number: int) -> dict[str, NDArray]:
        """The rows of one table by column: id, count, seen, version, norm (of the weights); in the order of ids."""
        rows = self.rows_of(number)
        weights = self.records.floats[rows, WEIGHTS : WEIGHTS + self.dim]
        words, longs = self.records.words[rows], self.records.longs[rows]
        return {
            "id": longs[:, ID],
            "count": words[:, COUNT],
            "seen": longs[:, SEEN],
            "version": words[:, VERSION],
            "norm": np.sqrt((weights**2).sum(axis=1)),
        }

    def rows_of(self, number: int) -> NDArray[np.int64]:
        """Rows of one table, in the order of their ids."""
        rows = np.flatnonzero(self.records.words[: int(self._state[0]), TABLE] == number)
        return rows[np.argsort(self.records.longs[rows, ID])]

    def _let_go(self, rows: NDArray[np.int64]) -> None:
        if not len(rows):
            return
        tables, ids = self.records.words[rows, TABLE].astype(np.int64), self.records.longs[rows, ID]
        self.ids.erase(tables, ids)
        self.version += 1
        self.gone.append(np.stack([np.full(len(rows), self.version), tables, ids], axis=1))
        self.live -= np.bincount(tables, minlength=len(self.live))
        self.records.words[rows, TABLE] = FREE
        count = int(self._state[1])
        self.free = np.concatenate([self.free[:count], rows])
        self._state[1] = len(self.free)

    def _reserve(self, more: int) -> None:
        """Room for so many more ids."""
        self.ids.reserve(more)
        used = int(self._state[0])
        if used + more > len(self.records):
            self.records = self.records.grown(max(used + more, 2 * len(self.records)), used)
        if (self._thresholds > 1).any() and slots_for(int(self._state[2]) + more) > len(self.waiting):
            larger = _no_waiting(2 * int(self._state[2]) + more)
            self._state[2] = keep_waiting(self.waiting, larger, 0, np.zeros_like(self._ttl))
            self.waiting = larger


def _no_waiting(expected: int) -> NDArray[np.int64]:
    return np.full((slots_for(expected), 3), -1, np.int64)


def _seed_of(seed: int, table: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {table}".encode()).digest()[:8], "little")
