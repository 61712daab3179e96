"""The writer of a store: applies events in transactions that also store the position in the stream.

A transaction applies one part of the stream to all tables. If the process is killed, the part is either applied with its
position or not at all, so a writer that continues after the stored position applies each event once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import lmdb
import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from ml.days import MICROSECONDS_PER_HOUR
from ml.features.online_store.append import append_events
from ml.features.online_store.covisitation import apply_sessions
from ml.features.online_store.environment import (
    CURRENT,
    Environment,
    current_generation,
    make_current,
    new_generation,
    only_writer,
    open_environment,
)
from ml.features.online_store.events import Events, array, words_of
from ml.features.online_store.meta import Meta, read_meta, write_meta
from ml.features.online_store.plan import StorePlan, TablePlan
from ml.features.online_store.sweep import sweep
from ml.features.online_store.texts import store_texts
from ml.features.point_in_time.event_log import EventLog, column_keys, entity_keys
from ml.features.point_in_time.feature_tables import SESSION_SEED
from ml.schema import EVENT_TIME

SWEEP_KEYS_PER_ROW = 4
"""Keys that are looked at for deletion for each row that is applied. A row writes few keys, so a sweep keeps up."""


class StaleStore(ValueError):
    """The store was made for other feature tables."""


class StoreWriter:
    """Applies a stream to a store. Use it in a `with` statement; only one process can have a store open for writing.

    Args:
        folder: Folder of the store; it is created.
        plan: The series of the catalog entry's tables.
        history_hours: Look-ups as of an instant this long before the newest event are still exact.
        rebuild: Whether to write a new generation, from the beginning of the stream. Readers see the old one until `publish`.

    Attributes:
        is_rebuild: Whether the writer writes a generation that is not read yet.

    Raises:
        StoreInUse: Another process writes the store.
        StaleStore: The store was made for other feature tables; it must be rebuilt.
    """

    def __init__(self, folder: str | Path, plan: StorePlan, *, history_hours: float = 1.0, rebuild: bool = False) -> None:
        self.folder, self.plan = Path(folder), plan
        self._history = round(history_hours * MICROSECONDS_PER_HOUR)
        self.is_rebuild = rebuild
        self._generation = Path()
        self._held: Environment | None = None
        self._meta = Meta(plan.fingerprint)

    def __enter__(self) -> Self:
        self._lock = only_writer(self.folder)
        self._lock.__enter__()
        try:
            self._open()
        except BaseException:
            self._lock.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._held = None
        self._lock.__exit__(None, None, None)

    def _open(self) -> None:
        has_store = (self.folder / CURRENT).exists()
        if has_store and not self.is_rebuild:
            self._generation = current_generation(self.folder)
        else:
            self._generation = new_generation(self.folder)
        self._held = open_environment(self._generation)
        self._held.env.reader_check()  # removes readers that were killed, whose pages could not be used again
        with self._held.env.begin(write=True) as txn:
            found = read_meta(txn, self._held)
            if found is not None and found.fingerprint != self.plan.fingerprint:
                raise StaleStore(
                    f"{self.folder}: the online store was made for other feature tables (fingerprint {found.fingerprint}, now "
                    f"{self.plan.fingerprint}); rebuild it: `make store REBUILD=1`"
                )
            self._meta = found or self._meta
            write_meta(txn, self._held, self._meta)
        if not has_store:
            make_current(self._generation)

    @property
    def meta(self) -> Meta:
        """The state of the store, with the position after the last part that was applied."""
        return self._meta

    def publish(self) -> None:
        """Let readers use the generation that a rebuild has written."""
        make_current(self._generation)
        self.is_rebuild = False

    def apply(self, rows: pa.Table, position: Mapping[str, Any]) -> Meta:
        """Apply one part of a stream, and store the position after it, in one transaction."""
        assert self._held is not None, "a StoreWriter is used in a with statement"
        with self._held.env.begin(write=True) as txn:
            meta = replace(self._meta, position=dict(position), parts=self._meta.parts + 1)
            if len(rows):
                meta = self._applied(txn, self._held, rows, meta)
            write_meta(txn, self._held, meta)
        self._meta = meta
        return meta

    def _applied(self, txn: lmdb.Transaction, held: Environment, rows: pa.Table, meta: Meta) -> Meta:
        times = rows[EVENT_TIME].to_numpy()
        median = int(np.median(times))
        settled = max(meta.settled, median)
        late = 0
        for plan in self.plan.tables.values():
            late += self._apply_table(txn, held, plan, EventLog(rows).matching(plan.table), settled)
        kept_from = self._kept_from(settled)
        swept = sweep(txn, held, self.plan, bytes.fromhex(meta.swept), SWEEP_KEYS_PER_ROW * len(rows), kept_from)
        return replace(
            meta,
            newest=max(meta.newest, int(times.max())),
            settled=settled,
            complete_from=settled - self._history,
            began=min(meta.began, median),
            rows=meta.rows + len(rows),
            late=meta.late + late,
            swept=swept.hex(),
        )

    def _apply_table(self, txn: lmdb.Transaction, held: Environment, plan: TablePlan, rows: pa.Table, now: int) -> int:
        ids, times = entity_keys(rows, plan.table), rows[EVENT_TIME].to_numpy()
        late = append_events(txn, held, plan.events, Events.of(ids, times, words_of(rows, plan.events)))
        for name in plan.events.values:
            if pt.is_string(rows[name].type) or pt.is_large_string(rows[name].type):
                store_texts(txn, held, array(rows, name), now, self._history + 1)
        for covisitation in plan.covisitation.values():
            sessions = column_keys(rows, SESSION_SEED, covisitation.value.session)
            apply_sessions(txn, held, covisitation, sessions, ids, times)
        return late

    def _kept_from(self, settled: int) -> list[int]:
        hours = [series.hours for series in self.plan.series]
        kept = [settled - self._history - round(h * MICROSECONDS_PER_HOUR) for h in hours]
        return [*kept, min(kept, default=settled) - 2 * self._history]
