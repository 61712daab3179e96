"""The reader of a store: values of many entities as of an instant, in the calling process.

A look-up reads one committed state of the store, without locks, while the writer continues.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import lmdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ml.catalog.feature_tables import FeatureValue
from ml.catalog.reading import ColumnType
from ml.days import MICROSECONDS_PER_HOUR
from ml.features.online_store.covisitation import covisitation
from ml.features.online_store.environment import CURRENT, Environment, current_generation, open_environment
from ml.features.online_store.events import values_of
from ml.features.online_store.meta import Meta, read_meta
from ml.features.online_store.plan import StorePlan, SumColumn, TablePlan
from ml.features.online_store.snapshot import Entities
from ml.features.online_store.texts import texts_of
from ml.features.online_store.writer import StaleStore
from ml.features.point_in_time.event_log import column_keys, entity_keys
from ml.features.point_in_time.feature_tables import SESSION_SEED
from ml.features.point_in_time.values import count_value, rate_value, recency_value, span_of
from ml.features.point_in_time.windows import bounds


class TooLongAgo(ValueError):
    """A look-up is as of an instant for which events were deleted."""


@dataclass(frozen=True)
class Lookup:
    """The answer to a look-up of N entities.

    Attributes:
        columns: The values of the table, N rows: int64 counts, float64 rates, recencies (seconds) and co-visitations, and lists
            of last values. An entity without events has the defaults: 0, the prior, null, null and an empty list.
        missing: bool [N], whether the store has no events of the entity.
        newest: Latest event time that the store knew, in microseconds since 1970 UTC.
        complete: bool [N], whether the longest window of the table begins after the stream did. Otherwise values lack the
            events from before the stream, unless the log begins with it.
    """

    columns: pa.RecordBatch
    missing: npt.NDArray[np.bool_]
    newest: int
    complete: npt.NDArray[np.bool_]


class StoreReader:
    """Looks up values in a store. It may be used by one thread at a time, and not after a fork.

    Args:
        folder: Folder of the store.
        plan: The series of the catalog entry's tables.

    Attributes:
        lookups: Number of entities that were looked up, by table.
        misses: Number of these that had no events.

    Raises:
        NoStore: There is no store in the folder.
        StaleStore: The store was made for other feature tables.

    Example:
        >>> import tempfile
        >>> from ml.catalog.spec import DatasetSpec
        >>> from ml.features.online_store.writer import StoreWriter
        >>> spec = DatasetSpec(
        ...     name="shop", description="Clicks on items.", label={"column": "clicked"}, sparse=["item"],
        ...     source={"files": "*.csv", "format": "csv", "columns": {"at": "int", "item": "int", "clicked": "int"}},
        ...     time={"column": "at"}, partitions={"start": "1970-01-01"},
        ...     feature_tables=[{"name": "items", "entity": ["item"], "values": [{"name": "seen", "count": {"hours": 1}}]}])
        >>> folder, plan = tempfile.mkdtemp(), StorePlan.of(spec)
        >>> events = pa.table({"event_time": [1_000_000, 2_000_000], "item": [7, 7], "clicked": [0, 1]})
        >>> with StoreWriter(folder, plan) as writer:
        ...     state = writer.apply(events, position={"rows": 2})
        >>> found = StoreReader(folder, plan).lookup("items", pa.table({"item": [7, 8]}), at=2_000_000)
        >>> found.columns["seen"].to_pylist(), found.missing.tolist()
        ([1, 0], [False, True])
    """

    def __init__(self, folder: str | Path, plan: StorePlan) -> None:
        self.folder, self.plan = Path(folder), plan
        self.lookups: Counter[str] = Counter()
        self.misses: Counter[str] = Counter()
        self._current = self.folder / CURRENT
        self._opened = -1
        self._held = self._environment()

    @property
    def meta(self) -> Meta:
        """The state of the store: its position in the stream, and counters."""
        held = self._environment()
        with held.env.begin() as txn:
            return self._meta(txn, held)

    def lookup(self, table: str, keys: pa.Table, at: int | npt.NDArray[np.int64]) -> Lookup:
        """Look up the values of entities as of an instant.

        Args:
            table: Name of the table.
            keys: N rows with the columns of the entity, and those of the sessions if the table has co-visitations.
            at: The instant, or one for each row, in microseconds since 1970 UTC. Only earlier events count.

        Raises:
            TooLongAgo: The store has deleted events that a look-up as of this instant needs.
        """
        plan = self.plan.tables[table]
        ids = entity_keys(keys, plan.table)
        instants = np.full(len(ids), at, np.int64) if np.ndim(at) == 0 else np.asarray(at, np.int64)
        held = self._environment()
        with held.env.begin(buffers=True) as txn:
            meta = self._meta(txn, held)
            if len(instants) and instants.min() < meta.complete_from:
                raise TooLongAgo(
                    f"{self.folder}: look-ups are exact from {meta.complete_from} microseconds on, found {instants.min()}; "
                    "open the writer with more history_hours"
                )
            state = Entities(txn, held, plan.events, ids)
            values = _Values(txn, held, plan, self.plan.types, state, instants, keys, ids)
            columns = {value.name: values.of(value) for value in plan.table.values}
            missing = state.missing
        self.lookups[table] += len(ids)
        self.misses[table] += int(missing.sum())
        complete = instants - round(plan.events.hours * MICROSECONDS_PER_HOUR) >= meta.began
        return Lookup(pa.RecordBatch.from_pydict(columns), missing, meta.newest, complete)

    def _environment(self) -> Environment:
        """Return the environment of the current generation, which a rebuild replaces."""
        try:
            stamp = self._current.stat()
        except FileNotFoundError:
            current_generation(self.folder)  # raises
            raise
        if (changed := stamp.st_mtime_ns ^ stamp.st_ino) != self._opened:
            self._held, self._opened = open_environment(current_generation(self.folder)), changed
        return self._held

    def _meta(self, txn: lmdb.Transaction, held: Environment) -> Meta:
        meta = read_meta(txn, held)
        if meta is None or meta.fingerprint != self.plan.fingerprint:
            raise StaleStore(f"{self.folder}: the online store was made for other feature tables; rebuild it")
        return meta


class _Values:
    """Computes the values of a table for one look-up. Windows that several values share are read once."""

    def __init__(
        self,
        txn: lmdb.Transaction,
        held: Environment,
        plan: TablePlan,
        types: Mapping[str, ColumnType],
        state: Entities,
        at: np.ndarray,
        keys: pa.Table,
        ids: np.ndarray,
    ) -> None:
        self._txn, self._held, self._plan, self._types, self._state = txn, held, plan, types, state
        self._at, self._keys, self._ids = at, keys, ids
        self._known_after = plan.known_after
        self._totals: dict[float | None, tuple[np.ndarray, np.ndarray]] = {}

    def of(self, value: FeatureValue) -> pa.Array:
        if value.count:
            counts = self._window(value.hours)[0][:, 0]
            return pa.array(count_value(counts, value.hours, self._plan.sampling))
        if value.rate:
            rate = value.rate
            column = self._plan.events.sums.index(SumColumn(rate.column, rate.at_least))
            counts, sums = self._window(value.hours)
            return pa.array(rate_value(sums[:, column], counts[:, 1 + column], rate))
        if value.recency:
            words, lengths = self._last(value.hours, -1, 1)
            elapsed = np.where(lengths > 0, self._at - words[:, 0], np.nan)
            return pa.array(recency_value(elapsed, value.hours, self._plan.sampling), from_pandas=True)
        if value.last:
            plan = self._plan.events
            column = len(plan.sums) + plan.values.index(value.last.column)
            words, lengths = self._last(value.hours, column, value.last.most)
            flat = words[np.arange(words.shape[1]) < lengths[:, None]]
            offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
            return pa.ListArray.from_arrays(pa.array(offsets), self._typed(flat, value.last.column))
        session = column_keys(self._keys, SESSION_SEED, self._plan.covisitation[value.name].value.session)
        plan = self._plan.covisitation[value.name]
        found = covisitation(self._txn, self._held, plan, self._ids, session, self._at, self._known_after)
        return pa.array(found, from_pandas=True)

    def _typed(self, words: np.ndarray, column: str) -> pa.Array:
        kind = self._types[column]
        return texts_of(self._txn, self._held, words) if kind == "string" else values_of(words, kind)

    def _window(self, hours: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers of events and values, and the sums, in a window."""
        lows, highs = bounds(self._at, span_of(hours), self._known_after)
        if None not in self._totals:
            self._totals[None] = self._state.totals(highs)
        if hours not in self._totals:
            self._totals[hours] = self._state.totals(np.minimum(lows, highs))
        (after, sums_after), (before, sums_before) = self._totals[None], self._totals[hours]
        return after - before, sums_after - sums_before

    def _last(self, hours: float, column: int, most: int) -> tuple[np.ndarray, np.ndarray]:
        return self._state.last(*bounds(self._at, span_of(hours), self._known_after), column, most)
