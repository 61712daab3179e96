"""The rows of some tables of one dimension: which ids have one, what they hold, and what becomes of them.

No two ids ever share a row. Here rows are found, admitted, updated and let go; how bags are made of them is `pooling`, how a
model sees them `collisionless`, how they are written down `columns`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import WeakSet

import numpy as np
import torch
from numpy.typing import NDArray

from ml.embeddings.collisionless.admission import (
    COUNTED,
    DIRECT,
    EXACT,
    PROBABILISTIC,
    SLIDING,
    admit,
    count_missing,
    keep_candidates,
)  # fmt: skip
from ml.embeddings.collisionless.counters import Counters
from ml.embeddings.collisionless.deltas import apply_to, delta_of
from ml.embeddings.collisionless.hash_map import EMPTY, ROW_BITS, HashMap, find_many, slots_for
from ml.embeddings.collisionless.lookup import LookupContext, PartitionBuffers, add_admitted, reader
from ml.embeddings.collisionless.row_layout import (
    COUNT,
    DEFAULT,
    FREE,
    ID,
    LATEST,
    MOST,
    STEP,
    TABLE,
    WEIGHTS,
    RowArray,
    width_of,
)
from ml.embeddings.collisionless.threads import in_threads
from ml.embeddings.collisionless.update import begin_states, trainer
from ml.embeddings.delta import Delta
from ml.embeddings.optimizers import CODES, RowOptimizer
from ml.embeddings.rules import TableRules, seed_of

MICROSECONDS = 1_000_000
_FIRST_ROWS = 1024
_UNBOUNDED = 1 << 40
_EVICT_AHEAD = 16  # of a full table, one row in so many at once: finding them costs a look at all
_FILTERS = {"exact": EXACT, "sliding": SLIDING, "probabilistic": PROBABILISTIC}
_NO_WEIGHTS = np.empty(0, np.float32)


class Occurrences(NamedTuple):
    """What a batch looks up: N ids int64, feature by feature; offsets int64 [F * B + 1] of the bags; weights float32 [N] in
    their bags, or none."""

    ids: NDArray[np.int64]
    offsets: NDArray[np.int64]
    weights: NDArray[np.float32] = _NO_WEIGHTS


@dataclass(eq=False)
class PendingUpdate:
    """The context of one training look-up, until its update. Rows among them do not make way for others."""

    context: LookupContext
    offsets: NDArray[np.int64]
    deletions: int
    done: bool = False

    def rows(self) -> NDArray[np.int64]:
        return np.concatenate([own.distinct[: own.found] for own in self.context.parts])


class Store:
    """Rows of `dim` float32 weights, each with its optimizer's state, for tables numbered as `rules` are.

    features: the table of each feature, int64 [F]; means: whether its bags are averaged, bool [F]. The default row, all zeros,
    stands for whatever has none: it is read and never updated. threads: at most so many, each with tables of its own; results
    do not depend on it.
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
    ) -> None:
        tables = len(rules)
        self.rules, self.dim, self.optimizer, self.init_scale = tuple(rules), dim, optimizer, init_scale
        self.features = np.arange(tables) if features is None else np.asarray(features, np.int64)
        self.means = np.zeros(len(self.features), np.bool_) if means is None else np.asarray(means, np.bool_)
        self.hash_map = HashMap()
        self.array = RowArray.zeros(_FIRST_ROWS, width_of(dim, optimizer.words(dim)))
        self.array.words[DEFAULT, TABLE] = FREE
        self.candidates = empty_candidates(0)
        self.free = np.empty(0, np.int64)
        self.state = np.array([DEFAULT + 1, 0, 0], np.int64)  # next unused row, free rows, taken candidate slots
        self.live = np.zeros(tables, np.int64)
        self.step = 0
        self.time = 0
        self.oldest_delta_step = 0  # the oldest step that deltas may begin after
        self.tombstones: list[NDArray[np.int64]] = []  # of each time that rows were let go, [n, 3]: step, table, id
        self.counters = Counters.zeros(tables)
        self.seeds = np.array([seed_of(seed, rule.name) for rule in rules], np.uint64)
        self._thresholds = np.array([rule.min_count for rule in rules], np.int64)
        self.set_caps([rule.max_rows for rule in rules])
        self._filters = np.array([_filter_of(rule) for rule in rules], np.int64)
        self._halves = np.array([max(1, round((r.window_seconds or 0) * MICROSECONDS / 2)) for r in rules], np.int64)
        self._ttl = np.array([round((rule.ttl_seconds or 0) * MICROSECONDS) for rule in rules], np.int64)
        self._kind, self._constants = CODES[optimizer.kind], optimizer.constants()
        self._deletions = 0
        self._spare: list[LookupContext] = []
        self._pending: WeakSet[PendingUpdate] = WeakSet()

    def __getstate__(self) -> dict[str, Any]:
        """A copy has no look-up of its own under way."""
        return {name: value for name, value in vars(self).items() if name not in ("_spare", "_pending")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _spare=[], _pending=WeakSet())

    def __len__(self) -> int:
        """Ids that have a row."""
        return int(self.live.sum())

    @property
    def used(self) -> int:
        """RowArray that are or were in use: all rows are below."""
        return int(self.state[0])

    @property
    def row_bytes(self) -> int:
        return self.array.floats.itemsize * self.array.floats.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of rows in use, of the map and of what waits."""
        return self.used * self.row_bytes + self.hash_map.nbytes + self.candidates.nbytes

    def nbytes_by_table(self, candidates: NDArray[np.int64]) -> NDArray[np.int64]:
        """The same by table, int64 [T]: rows that were freed and the map in shares of the rows, what waits in shares of that.

        candidates: of `num_candidates`.
        """
        of_rows, of_candidates = _shares(self.live), _shares(candidates)
        split = of_rows * (self.nbytes - self.candidates.nbytes) + of_candidates * self.candidates.nbytes
        return np.diff(np.round(np.cumsum(np.concatenate([[0.0], split])))).astype(np.int64)

    def num_candidates(self) -> NDArray[np.int64]:
        """How many ids are counted and have no row yet, by table, int64 [T]."""
        values = self.candidates[:, 1]
        values = values[(values != EMPTY) & (values & COUNTED > 0)]
        return np.bincount(values >> ROW_BITS, minlength=len(self.live))

    def find(self, tables: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of N ids, int64 [N], the default row for those without; nothing is counted, admitted or touched."""
        rows = np.empty(len(ids), np.int64)
        find_many(self.hash_map.slots, tables, ids, rows)
        return np.maximum(rows, DEFAULT)

    def look_up(self, batch: Occurrences, threads: int = 1) -> NDArray[np.float32]:
        """Bags, float32 [B, F * dim], leaving everything as it is."""
        out, context = self._out(batch), self._new_context(batch, threads)
        self._read(batch, False, 0, context, out)
        self._spare.append(context)
        return out

    def look_up_for_training(self, batch: Occurrences, now: int, threads: int = 1) -> tuple[NDArray[np.float32], PendingUpdate]:
        """The same, and every occurrence counts; ids that are due get a row. The pending update is for `update`.

        now: event time, microseconds since 1970 UTC; what is before 1970 or after 2106 is taken for the nearest that is not.
        """
        now = min(max(now, 0), LATEST * MICROSECONDS)
        self.time, seconds = max(self.time, now), now // MICROSECONDS
        out, context = self._out(batch), self._new_context(batch, threads)
        self._read(batch, True, seconds, context, out)
        np.add.at(self.counters.looked_up, self.features, _per_feature(batch, len(self.features)))
        if any(own.missing for own in context.parts):
            missing = np.concatenate([own.without[: own.missing] for own in context.parts])
            tables = np.concatenate([own.tables[: own.missing] for own in context.parts])
            listed = np.concatenate([own.distinct[: own.found] for own in context.parts])
            self._admit(batch.ids, context.rows, missing, tables, listed, now, seconds)
            for own in context.parts:
                own.found = add_admitted(
                    self.array.floats, self.array.words, self.dim, batch.offsets, context.rows, context.lines, context.shares,
                    context.places, own.distinct, own.found, own.without[: own.missing], len(self.features), out,
                )  # fmt: skip
        pending = PendingUpdate(context, batch.offsets, self._deletions)
        self._pending.add(pending)
        return out, pending

    def update(self, pending: PendingUpdate, grad: NDArray[np.float32], lr: float) -> None:
        """One step of the optimizer on each row that was looked up, by the summed gradient of its occurrences.

        grad: float32 [B, F * dim], of the bags. Raises `RuntimeError` where the look-up had its update before, or rows have
        expired since.
        """
        if pending.done:
            raise RuntimeError("this look-up has had its update: look up again before the next one")
        if pending.deletions != self._deletions:
            raise RuntimeError("rows were let go between a look-up and its update; expire between steps")
        self.step = self._next_step()
        pending.done = True
        self._pending.discard(pending)
        context, lines, kernel = pending.context, grad.reshape(-1, self.dim), trainer(self.dim, self._kind)

        def work(own: PartitionBuffers) -> None:
            kernel(
                self.array.floats, self.array.words, lines, pending.offsets, own.features, len(grad), context.lines,
                context.shares, context.places, own.distinct, own.summed, own.found, self._constants, np.float32(lr),
                self.step,
            )  # fmt: skip

        in_threads(work, [own for own in context.parts if own.found])
        self._spare.append(context)

    def _next_step(self) -> int:
        if self.step >= MOST:
            raise OverflowError(f"{self.step} updates are all that steps can count; set a snapshot's to 0, and load it")
        return self.step + 1

    def insert(self, tables: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Empty rows, int64 [N], for ids that have none, each given once: for loading what was written down, and `begin`."""
        rows = self._take(len(ids))
        self.hash_map.insert(tables, ids, rows)
        self.live += np.bincount(tables, minlength=len(self.live))
        self.array.floats[rows] = 0
        self.array.longs[rows, ID], self.array.words[rows, TABLE] = ids, tables
        return rows

    def begin(self, rows: NDArray[np.int64]) -> None:
        """Let the optimizer's state of rows be what it begins with, now that their weights are there."""
        begin_states(self.array.floats, rows, self.dim, self._kind, self._constants)

    def expire(self, now: int) -> int:
        """Let go of rows, and of candidates, not seen for their table's time to live. How many rows that was."""
        if not self._ttl.any():
            return 0
        tables = self.array.words[: self.used, TABLE]
        held = np.flatnonzero(tables != FREE)
        ttl = self._ttl[tables[held]]
        age = (now // MICROSECONDS - self.array.seen(held)) * MICROSECONDS  # whole seconds are all that rows remember
        gone = held[(ttl > 0) & (age > ttl)]
        self.counters.expired += self.delete_rows(gone)
        self.set_candidates(empty_candidates(int(self.state[2])), now, self._ttl)
        return len(gone)

    def delta(self, since: int) -> Delta:
        """What changed after step `since`. Raises `Gap`; see `deltas`."""
        return delta_of(self, since)

    def apply(self, delta: Delta) -> bool:
        """Take over what a delta of another store says; False where that is here already. Raises `Gap`; see `deltas`."""
        return apply_to(self, delta)

    def trim_tombstones(self, step: int) -> None:
        """Remember no longer which ids were let go up to `step`: no one will ask for a delta since an earlier one."""
        self.tombstones = [part for part in self.tombstones if part[0, 0] > step]
        self.oldest_delta_step = max(self.oldest_delta_step, step)

    def rows_of(self, number: int) -> NDArray[np.int64]:
        """Rows of one table, in the order of their ids."""
        rows = np.flatnonzero(self.array.words[: self.used, TABLE] == number)
        return rows[np.argsort(self.array.longs[rows, ID])]

    def table(self, number: int) -> dict[str, NDArray]:
        """One table to look at, by column, in the order of ids: id, count, seen (seconds), step, norm (of the weights)."""
        rows = self.rows_of(number)
        weights = self.array.floats[rows, WEIGHTS : WEIGHTS + self.dim]
        words = self.array.words[rows]
        return {
            "id": self.array.longs[rows, ID],
            "count": words[:, COUNT],
            "seen": self.array.seen(rows),
            "step": words[:, STEP],
            "norm": np.sqrt((weights**2).sum(axis=1)),
        }

    def _out(self, batch: Occurrences) -> NDArray[np.float32]:
        # torch's memory begins with a cache line and is used again; numpy's would be new pages at every step.
        return torch.empty((len(batch.offsets) - 1) // len(self.features), len(self.features) * self.dim).numpy()

    def _new_context(self, batch: Occurrences, threads: int) -> LookupContext:
        _check(batch, len(self.features))
        n, context = len(batch.ids), LookupContext.room_for(0)
        while self._spare and len(context) < max(n, 1):
            context = self._spare.pop()
        if len(context) < n:
            context = LookupContext.room_for(n + n // 4)
        context.partition(self._parts(batch, threads), self.dim)
        return context

    def _parts(self, batch: Occurrences, threads: int) -> list[NDArray[np.int64]]:
        """Features by part: those of a table together, the largest tables first to whoever has least to do."""
        if threads == 1 or len(self.live) == 1:
            return [np.arange(len(self.features))]
        work = np.bincount(self.features, _per_feature(batch, len(self.features)), len(self.live))
        loads, part_of = np.zeros(threads), np.zeros(len(self.live), np.int64)
        for table in np.argsort(-work, kind="stable"):
            part_of[table] = loads.argmin()
            loads[part_of[table]] += work[table]
        parts = [np.flatnonzero(part_of[self.features] == part) for part in range(threads)]
        return [part for part in parts if len(part)]

    def _read(self, batch: Occurrences, training: bool, seconds: int, context: LookupContext, out: NDArray[np.float32]) -> None:
        kernel = reader(self.dim, training)

        def work(own: PartitionBuffers) -> None:
            own.found, own.missing = kernel(
                self.hash_map.slots, self.array.floats, self.array.words, batch.ids, batch.offsets, batch.weights, self.means,
                self.features, own.features, seconds, context.rows, context.lines, context.shares, context.places, own.distinct,
                own.without, own.tables, out,
            )  # fmt: skip

        in_threads(work, context.parts)

    def _admit(
        self, ids: NDArray[np.int64], rows: NDArray[np.int64], missing: NDArray[np.int64], tables: NDArray[np.int64],
        listed: NDArray[np.int64], now: int, seconds: int,
    ) -> None:  # fmt: skip
        """Rows for those of the occurrences `missing` that are due, if need be by evicting rows that are not `listed`."""
        self.counters.unknown += np.bincount(tables, minlength=len(self.live))
        self._reserve(self._bound(ids, missing, tables))
        due = np.zeros_like(self.live)
        count_missing(
            self.candidates, tables, ids, missing, self._nth(ids, missing, tables), now, self.state, self._filters,
            self._thresholds, self._halves, self.seeds, self.counters.looked_up + self.step, due,
        )  # fmt: skip
        for table in np.flatnonzero((self.live + due > self._caps) & (self._filters != DIRECT)):
            self._evict_to_cap(table, int(self.live[table] + due[table] - self._caps[table]), listed)
        before, live = self.used - int(self.state[1]), self.live.copy()
        admit(
            self.hash_map.slots, self.candidates, self.array.floats, self.array.words, self.array.longs, tables, ids, rows,
            missing, seconds, self.free, self.state, self._filters, self._caps, self.live, self.seeds,
            np.float32(self.init_scale), self.dim, self._kind, self._constants, self._next_step(),
        )  # fmt: skip
        self.hash_map.size += self.used - int(self.state[1]) - before
        self.counters.admitted += self.live - live

    def _nth(self, ids: NDArray[np.int64], missing: NDArray[np.int64], tables: NDArray[np.int64]) -> NDArray[np.int64]:
        """The so-many-th of its id each occurrence is; where chance admits, for only chance asks."""
        nth = np.zeros(len(missing), np.int64)
        asked = np.flatnonzero(self._filters[tables] == PROBABILISTIC)
        if len(asked):
            order = asked[np.lexsort((missing[asked], ids[missing[asked]], tables[asked]))]
            mine, of = ids[missing[order]], tables[order]
            first = np.concatenate([[True], (mine[1:] != mine[:-1]) | (of[1:] != of[:-1])])
            at = np.arange(len(order))
            nth[order] = at - np.maximum.accumulate(np.where(first, at, 0))
        return nth

    def set_caps(self, caps: Sequence[int | None]) -> None:
        """Rows that each table may have from now on; None is any number."""
        self._caps = np.array([cap or _UNBOUNDED for cap in caps], np.int64)

    def keep_caps(self) -> None:
        """Let go of what is beyond the tables' caps, where rows came in from elsewhere."""
        for table in np.flatnonzero(self.live > self._caps):
            self._evict_to_cap(table, int(self.live[table] - self._caps[table]), np.empty(0, np.int64))

    def _evict_to_cap(self, table: int, count: int, listed: NDArray[np.int64]) -> None:
        """Let go of at least `count` rows of a table that evicts, but for those of the batch at hand, and of such as have yet
        to be updated."""
        if self.rules[table].evict == "never":
            return
        mine = self.array.words[: self.used, TABLE] == table
        mine[listed] = False
        for pending in self._pending:
            mine[pending.rows()] = False
        rows = np.flatnonzero(mine)
        seen, counts = self.array.seen(rows), self.array.words[rows, COUNT]
        keys = (seen, counts) if self.rules[table].evict == "least_frequently_used" else (counts, seen)
        order = np.lexsort((self.array.longs[rows, ID], *keys))
        gone = rows[order[: max(count, int(self._caps[table]) // _EVICT_AHEAD)]]
        self.counters.evicted += self._free(gone, self._next_step())

    def _take(self, count: int) -> NDArray[np.int64]:
        """Rows that nothing is in: those let go first, then such as were never used."""
        self._reserve_rows(count)
        free = int(self.state[1])
        reused = self.free[max(free - count, 0) : free]
        fresh = np.arange(count - len(reused)) + self.state[0]
        self.state[0] += len(fresh)
        self.state[1] -= len(reused)
        return np.concatenate([reused, fresh])

    def delete_rows(self, rows: NDArray[np.int64], step: int | None = None) -> NDArray[np.int64]:
        """Free some rows, each given once, as of `step`, by default the next. How many that was, by table, int64 [T].

        Look-ups under way can not be updated from then on.
        """
        self._deletions += len(rows) > 0
        return self._free(rows, self._next_step() if step is None else step)

    def _free(self, rows: NDArray[np.int64], step: int) -> NDArray[np.int64]:
        if not len(rows):
            return np.zeros_like(self.live)
        tables, ids = self.array.words[rows, TABLE].astype(np.int64), self.array.longs[rows, ID]
        self.hash_map.erase(tables, ids)
        self.step = step
        self.add_tombstones(tables, ids)
        by_table = np.bincount(tables, minlength=len(self.live))
        self.live -= by_table
        self.array.words[rows, TABLE] = FREE
        self.free = np.concatenate([self.free[: self.state[1]], rows])
        self.state[1] = len(self.free)
        return by_table

    def add_tombstones(self, tables: NDArray[np.int64], ids: NDArray[np.int64]) -> None:
        """For deltas to come: some ids, at least one, were let go at the present step."""
        self.tombstones.append(np.stack([np.full(len(ids), self.step), tables, ids], axis=1))

    def _bound(self, ids: NDArray[np.int64], missing: NDArray[np.int64], tables: NDArray[np.int64]) -> int:
        """At most so many ids are without a row: how many occurrences, or, where these would need more memory, distinct ids."""
        more = len(missing)
        if slots_for(len(self.hash_map) + more) <= len(self.hash_map.slots) and self.used + more <= len(self.array):
            return more
        order = np.lexsort((ids[missing], tables))
        mine, of = ids[missing][order], tables[order]
        return 1 + int(((mine[1:] != mine[:-1]) | (of[1:] != of[:-1])).sum())

    def _reserve(self, more: int) -> None:
        """Room for so many more ids."""
        self.hash_map.reserve(more)
        self._reserve_rows(more)
        if (self._filters != DIRECT).any() and slots_for(int(self.state[2]) + more) > len(self.candidates):
            self.set_candidates(empty_candidates(2 * int(self.state[2]) + more), 0, np.zeros_like(self._ttl))

    def _reserve_rows(self, more: int) -> None:
        if self.used + more > len(self.array):
            self.array = self.array.grown(max(self.used + more, 2 * len(self.array)), self.used)

    def set_candidates(self, kept: NDArray[np.int64], now: int, ttl: NDArray[np.int64]) -> None:
        """Let `kept`, empty and with room, hold what waits, but for ids not seen for their table's ttl (microseconds, or 0)."""
        self.state[2] = keep_candidates(self.candidates, kept, now, ttl)
        self.candidates = kept


def _shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Each count's part of their sum; equal parts of nothing."""
    return counts / counts.sum() if counts.any() else np.full(len(counts), 1 / len(counts))


def _check(batch: Occurrences, features: int) -> None:
    """Kernels look at neither bounds nor sense. Raises `ValueError` for what is no batch of so many features."""
    n, offsets, weights = len(batch.ids), batch.offsets, len(batch.weights)
    if not features or (len(offsets) - 1) % features or len(offsets) == 0:
        raise ValueError(f"{len(offsets) - 1} bags are no whole number of examples of {features} features")
    if offsets[0] != 0 or offsets[-1] != n or not (offsets[1:] >= offsets[:-1]).all():
        raise ValueError(f"the lengths of the bags do not belong to {n} ids: they add up to {offsets[-1]}")
    if weights not in (0, n):
        raise ValueError(f"{n} ids have {weights} weights")


def _per_feature(batch: Occurrences, features: int) -> NDArray[np.int64]:
    """Occurrences of each feature, int64 [F]."""
    examples = (len(batch.offsets) - 1) // features
    return np.diff(batch.offsets[::examples]) if examples else np.zeros(features, np.int64)


def empty_candidates(expected: int) -> NDArray[np.int64]:
    return np.full((slots_for(expected), 3), EMPTY, np.int64)


def _filter_of(rule: TableRules) -> int:
    evicts = rule.max_rows is not None and rule.evict != "never"
    return DIRECT if rule.min_count == 1 and not evicts else _FILTERS[rule.filter]
