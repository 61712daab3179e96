"""Storage of the rows of collisionless tables: look-up, admission, update, expiry and eviction. No two ids share a row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
from numpy.typing import NDArray

from ml.days import MICROSECONDS_PER_SECOND
from ml.embeddings.collisionless.admission import admit
from ml.embeddings.collisionless.batch import Occurrences
from ml.embeddings.collisionless.candidates import DIRECT, Candidates
from ml.embeddings.collisionless.context import LookupContext, PartitionBuffers, PendingUpdate, partition_features
from ml.embeddings.collisionless.counters import Counters
from ml.embeddings.collisionless.eviction import rows_to_evict
from ml.embeddings.collisionless.hash_map import HashMap, find_many, slots_for
from ml.embeddings.collisionless.lookup import add_admitted, reader
from ml.embeddings.collisionless.row_layout import DEFAULT, FREE, ID, LATEST, MOST, TABLE, RowArray, width_of
from ml.embeddings.collisionless.row_pool import RowPool
from ml.embeddings.collisionless.threads import in_threads
from ml.embeddings.collisionless.tombstones import Tombstones
from ml.embeddings.collisionless.touched_rows import TouchedRows
from ml.embeddings.collisionless.update import init_states, trainer
from ml.embeddings.optimizers import CODES, RowOptimizer
from ml.embeddings.receivers import Receivers
from ml.embeddings.rules import TableRules, seed_of

_UNBOUNDED = 1 << 40


class Store:
    """The rows of T tables of one dimension D, which F features read.

    A row stores `dim` float32 weights, the optimizer state, and when and how often its id was looked up (`row_layout`). Row 0
    is the default row. Its weights are zeros, it is never updated, and ids without a row read it.

    Args:
        rules: Admission, time to live and eviction of each table.
        dim: Number of weights in a row, D.
        optimizer: Optimizer of the rows.
        init_scale: First weights are uniform in [-init_scale, init_scale) and depend only on seed, table name and id.
        seed: Seed of first weights and of probabilistic admission.
        features: Index of the table that each feature reads, int64 [F]; by default, one feature per table.
        means: Whether the bags of each feature are averaged, bool [F]; by default, they are summed.
        receivers: Ledger of the receivers of deltas, which decides how long tombstones are kept; by default, a new one that
            measures silence in event time, so that training a day again gives the same bytes.

    Example:
        >>> store = Store([TableRules("item")], 4, RowOptimizer(), 0.1, seed=0)
        >>> pooled, pending = store.look_up_for_training(Occurrences(np.array([7, 8]), np.array([0, 1, 2])), now=0)
        >>> store.update(pending, np.ones((2, 4), np.float32), lr=0.1)
        >>> pooled.shape, len(store), store.step
        ((2, 4), 2, 1)
    """

    def __init__(
        self,
        rules: Sequence[TableRules],
        dim: int,
        optimizer: RowOptimizer,
        init_scale: float,
        seed: int,
        features: Sequence[int] | None = None,
        means: Sequence[bool] | None = None,
        receivers: Receivers | None = None,
    ) -> None:
        tables = len(rules)
        self.rules, self.dim, self.optimizer, self.init_scale = tuple(rules), dim, optimizer, init_scale
        self.features = np.arange(tables) if features is None else np.asarray(features, np.int64)
        self.means = np.zeros(len(self.features), np.bool_) if means is None else np.asarray(means, np.bool_)
        self.hash_map = HashMap()
        self._pool = RowPool(width_of(dim, optimizer.words(dim)))
        self.live = np.zeros(tables, np.int64)  # rows of each table
        self.step = 0  # number of updates
        self.time = 0  # latest event time, in microseconds
        self.tombstones = Tombstones()
        self.touched = TouchedRows()
        self.receivers = Receivers(self.event_seconds) if receivers is None else receivers
        self.counters = Counters.zeros(tables)
        self.seeds = np.array([seed_of(seed, rule.name) for rule in rules], np.uint64)
        self.candidates = Candidates(rules, self.seeds)
        self.set_caps([rule.max_rows for rule in rules])
        self._ttl = np.array([round((rule.ttl_seconds or 0) * MICROSECONDS_PER_SECOND) for rule in rules], np.int64)
        self._kind, self._constants = CODES[optimizer.kind], optimizer.constants()
        self._deletions = 0
        self._spare: list[LookupContext] = []
        self._pending: WeakSet[PendingUpdate] = WeakSet()

    def __getstate__(self) -> dict[str, Any]:
        """Copy everything except look-ups that await an update."""
        return {name: value for name, value in vars(self).items() if name not in ("_spare", "_pending")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _spare=[], _pending=WeakSet())

    def __len__(self) -> int:
        """Return the number of ids that have a row."""
        return int(self.live.sum())

    def event_seconds(self) -> float:
        """Return the latest event time, in seconds since 1970 UTC; infinity before the first event."""
        return self.time / MICROSECONDS_PER_SECOND if self.time else math.inf

    @property
    def array(self) -> RowArray:
        """All rows, including free ones."""
        return self._pool.array

    @property
    def used(self) -> int:
        """Number of leading rows of `array` that are or have been in use."""
        return self._pool.used

    @property
    def row_bytes(self) -> int:
        return self.array.floats.itemsize * self.array.floats.shape[1]

    @property
    def nbytes(self) -> int:
        """Size of the used rows, the hash map and the candidates, in bytes."""
        return self.used * self.row_bytes + self.hash_map.nbytes + self.candidates.nbytes

    def nbytes_by_table(self) -> NDArray[np.int64]:
        """Return `nbytes` by table, int64 [T].

        Rows and the hash map are divided in proportion to the rows of each table, candidates in proportion to its candidates.
        """
        split = _shares(self.live) * (self.nbytes - self.candidates.nbytes)
        split += _shares(self.candidates.by_table()) * self.candidates.nbytes
        return np.diff(np.round(np.cumsum(np.concatenate([[0.0], split])))).astype(np.int64)

    def find(self, tables: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the row of each id, int64 [N], without counting occurrences. Ids without a row have the default row.

        Args:
            tables: Table of each id, int64 [N].
            ids: int64 [N].
        """
        rows = np.empty(len(ids), np.int64)
        find_many(self.hash_map.slots, tables, ids, rows)
        return np.maximum(rows, DEFAULT)

    def look_up(self, batch: Occurrences, threads: int = 1) -> NDArray[np.float32]:
        """Look up and pool rows without changing the tables.

        Args:
            batch: Ids of B examples.
            threads: Maximum number of threads; results do not depend on it.

        Returns:
            Pooled rows, float32 [B, F * D].

        Raises:
            ValueError: If offsets or weights do not match the ids.
        """
        out, context = self._new_output(batch), self._new_context(batch, threads)
        self._read(batch, False, 0, context, out)
        self._spare.append(context)
        return out

    def look_up_for_training(self, batch: Occurrences, now: int, threads: int = 1) -> tuple[NDArray[np.float32], PendingUpdate]:
        """Look up and pool rows, count all occurrences, and admit ids that are due.

        Args:
            batch: Ids of B examples.
            now: Event time in microseconds since 1970 UTC, clipped to the years 1970 to 2106.
            threads: Maximum number of threads; results do not depend on it.

        Returns:
            Pooled rows, float32 [B, F * D], and the pending update to pass to `update`.

        Raises:
            ValueError: If offsets or weights do not match the ids.
            OverflowError: If an admission or eviction needs a step beyond the range of int32.
        """
        now = min(max(now, 0), LATEST * MICROSECONDS_PER_SECOND)
        self.time, seconds = max(self.time, now), now // MICROSECONDS_PER_SECOND
        out, context = self._new_output(batch), self._new_context(batch, threads)
        self._read(batch, True, seconds, context, out)
        np.add.at(self.counters.looked_up, self.features, batch.per_feature(len(self.features)))
        if any(own.missing for own in context.partitions):
            self._admit(batch.ids, context, now, seconds)
            for own in context.partitions:
                own.found = add_admitted(
                    self.array.floats, self.array.words, self.dim, batch.offsets, context.rows, context.lines, context.shares,
                    context.places, own.distinct, own.found, own.without[: own.missing], len(self.features), out,
                )  # fmt: skip
        pending = PendingUpdate(context, batch.offsets, self._deletions)
        self._pending.add(pending)
        return out, pending

    def update(self, pending: PendingUpdate, grad: NDArray[np.float32], lr: float) -> None:
        """Update each row of a look-up once, by the sum of the gradients of its occurrences.

        Args:
            pending: The pending update that `look_up_for_training` returned.
            grad: Gradient of the pooled rows, float32 [B, F * D].
            lr: Learning rate.

        Raises:
            RuntimeError: If the look-up has already been updated, or rows have been deleted since the look-up.
            OverflowError: If the next step is beyond the range of int32.
        """
        if pending.done:
            raise RuntimeError("this look-up has already been updated: look up again before the next update")
        if pending.deletions != self._deletions:
            raise RuntimeError("rows were deleted between a look-up and its update: expire rows only between training steps")
        self.step = self._next_step()
        pending.done = True
        self._pending.discard(pending)
        context, lines, kernel = pending.context, grad.reshape(-1, self.dim), trainer(self.dim, self._kind)

        def work(own: PartitionBuffers) -> None:
            own.found = kernel(
                self.array.floats, self.array.words, lines, pending.offsets, own.features, len(grad), context.lines,
                context.shares, context.places, own.distinct, own.summed, own.found, self._constants, np.float32(lr),
                self.step, self.touched.mark,
            )  # fmt: skip

        in_threads(work, [own for own in context.partitions if own.found])
        self.touched.add(context.found_rows(), self.used)
        self._spare.append(context)

    def insert(self, tables: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Create rows of zeros for ids that have no row.

        Args:
            tables: Table of each id, int64 [N].
            ids: Unique ids, int64 [N].

        Returns:
            The rows, int64 [N].
        """
        rows = self._pool.take(len(ids))
        self.hash_map.insert(tables, ids, rows)
        self.live += np.bincount(tables, minlength=len(self.live))
        self.array.floats[rows] = 0
        self.array.longs[rows, ID], self.array.words[rows, TABLE] = ids, tables
        return rows

    def init_optimizer_state(self, rows: NDArray[np.int64]) -> None:
        """Set the optimizer state of rows, int64 [N], to the state of new rows with the same weights."""
        init_states(self.array.floats, rows, self.dim, self._kind, self._constants)

    def expire(self, now: int) -> int:
        """Delete rows and candidates that have not been seen for their table's time to live.

        Args:
            now: Event time in microseconds since 1970 UTC.

        Returns:
            Number of deleted rows.
        """
        if not self._ttl.any():
            return 0
        tables = self.array.words[: self.used, TABLE]
        held = np.flatnonzero(tables != FREE)
        ttl = self._ttl[tables[held]]
        age = (now // MICROSECONDS_PER_SECOND - self.array.seen(held)) * MICROSECONDS_PER_SECOND  # rows store whole seconds
        expired = held[(ttl > 0) & (age > ttl)]
        self.counters.expired += self.delete_rows(expired)
        self.candidates.expire(now, self._ttl)
        return len(expired)

    def delete_rows(self, rows: NDArray[np.int64], step: int | None = None) -> NDArray[np.int64]:
        """Delete rows, and add tombstones for their ids. Look-ups that await an update can no longer be updated.

        Args:
            rows: Unique rows, int64 [N].
            step: Step of the deletion; by default, the next step.

        Returns:
            Number of deleted rows by table, int64 [T].
        """
        self._deletions += len(rows) > 0
        return self._delete(rows, self._next_step() if step is None else step)

    def set_caps(self, caps: Sequence[int | None]) -> None:
        """Set the cap on the rows of each table; None for no cap."""
        self._caps = np.array([cap or _UNBOUNDED for cap in caps], np.int64)

    def evict_to_cap(self) -> None:
        """Evict rows of tables that exceed their cap, as can happen after a restore."""
        for table in np.flatnonzero(self.live > self._caps):
            self._evict(table, int(self.live[table] - self._caps[table]), np.empty(0, np.int64))

    def rows_of(self, number: int) -> NDArray[np.int64]:
        """Return the rows of one table, sorted by id, int64 [N]."""
        rows = np.flatnonzero(self.array.words[: self.used, TABLE] == number)
        return rows[np.argsort(self.array.longs[rows, ID])]

    def _next_step(self) -> int:
        if self.step >= MOST:
            raise OverflowError(f"the step has reached its maximum, {MOST}: set the step of a snapshot to 0, and load it")
        return self.step + 1

    def _new_output(self, batch: Occurrences) -> NDArray[np.float32]:
        # torch aligns memory to cache lines and reuses it; numpy would allocate new pages in every step.
        return torch.empty((len(batch.offsets) - 1) // len(self.features), len(self.features) * self.dim).numpy()

    def _new_context(self, batch: Occurrences, threads: int) -> LookupContext:
        batch.check(len(self.features))
        n, context = len(batch.ids), LookupContext.allocate(0)
        while self._spare and len(context) < max(n, 1):
            context = self._spare.pop()
        if len(context) < n:
            context = LookupContext.allocate(n + n // 4)
        ids_of = batch.per_feature(len(self.features))
        context.partition(partition_features(self.features, ids_of, len(self.live), threads), self.dim)
        return context

    def _read(self, batch: Occurrences, training: bool, seconds: int, context: LookupContext, out: NDArray[np.float32]) -> None:
        kernel = reader(self.dim, training)

        def work(own: PartitionBuffers) -> None:
            own.found, own.missing = kernel(
                self.hash_map.slots, self.array.floats, self.array.words, batch.ids, batch.offsets, batch.weights, self.means,
                self.features, own.features, seconds, context.rows, context.lines, context.shares, context.places,
                own.distinct, own.without, own.tables, out,
            )  # fmt: skip

        in_threads(work, context.partitions)

    def _admit(self, ids: NDArray[np.int64], context: LookupContext, now: int, seconds: int) -> None:
        """Admit ids that are due, and evict rows that are not in the batch if a table is full."""
        missing = np.concatenate([own.without[: own.missing] for own in context.partitions])
        tables = np.concatenate([own.tables[: own.missing] for own in context.partitions])
        listed = context.found_rows()
        self.counters.unknown += np.bincount(tables, minlength=len(self.live))
        self._reserve(self._most_new(ids, missing, tables))
        due = self.candidates.count(tables, ids, missing, now, self.counters.looked_up + self.step)
        for table in np.flatnonzero((self.live + due > self._caps) & (self.candidates.filters != DIRECT)):
            self._evict(table, int(self.live[table] + due[table] - self._caps[table]), listed)
        before, (used, free) = self.live.copy(), self._pool.state.tolist()
        admit(
            self.hash_map.slots, self.candidates.slots, self.array.floats, self.array.words, self.array.longs, tables, ids,
            context.rows, missing, seconds, self._pool.free, self._pool.state, self.candidates.filters, self._caps, self.live,
            self.seeds, np.float32(self.init_scale), self.dim, self._kind, self._constants, self._next_step(),
        )  # fmt: skip
        self.touched.add(np.concatenate([self._pool.free[self._pool.state[1] : free], np.arange(used, self.used)]), self.used)
        admitted = self.live - before
        self.hash_map.size += int(admitted.sum())
        self.counters.admitted += admitted

    def _evict(self, table: int, count: int, listed: NDArray[np.int64]) -> None:
        """Evict at least `count` rows, except rows in this batch or awaiting an update."""
        kept = [listed, *(pending.context.found_rows() for pending in self._pending)]
        rows = rows_to_evict(self.array, self.used, table, int(self._caps[table]), count, self.rules[table].evict, kept)
        self.counters.evicted += self._delete(rows, self._next_step())

    def _delete(self, rows: NDArray[np.int64], step: int) -> NDArray[np.int64]:
        if not len(rows):
            return np.zeros_like(self.live)
        tables, ids = self.array.words[rows, TABLE].astype(np.int64), self.array.longs[rows, ID]
        self.hash_map.erase(tables, ids)
        self.step = step
        self.tombstones.add(step, tables, ids)
        by_table = np.bincount(tables, minlength=len(self.live))
        self.live -= by_table
        self._pool.release(rows)
        return by_table

    def _most_new(self, ids: NDArray[np.int64], missing: NDArray[np.int64], tables: NDArray[np.int64]) -> int:
        """Return an upper bound of the number of ids without a row.

        The bound is the number of occurrences, or of distinct ids if room for all occurrences would need more memory.
        """
        more = len(missing)
        if slots_for(len(self.hash_map) + more) <= len(self.hash_map.slots) and self._pool.has_room(more):
            return more
        order = np.lexsort((ids[missing], tables))
        mine, of = ids[missing][order], tables[order]
        return 1 + int(((mine[1:] != mine[:-1]) | (of[1:] != of[:-1])).sum())

    def _reserve(self, more: int) -> None:
        """Reserve memory for `more` ids."""
        self.hash_map.reserve(more)
        self._pool.reserve(more)
        self.candidates.reserve(more)


def _shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return counts divided by their sum; equal fractions if all counts are 0."""
    return counts / counts.sum() if counts.any() else np.full(len(counts), 1 / len(counts))
