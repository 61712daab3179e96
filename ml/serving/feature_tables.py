"""Values of feature tables as of a request, from the events that the service knows.

The service keeps the events of the longest window in memory, and groups them again at each refresh of the live items. Values
are computed from these groups by the kernels of the daily features. An event therefore counts from the next refresh on, and
only events of the last seconds can be the reason why a value differs from the daily one.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ml.catalog.spec import DatasetSpec, FeatureTable
from ml.days import MICROSECONDS_PER_HOUR
from ml.features.hashing import hash_values
from ml.features.point_in_time.event_log import ARRIVED, REPLACED, EventLog, column_keys, event_schema
from ml.features.point_in_time.feature_tables import EntityQueries, TableEvents, table_columns
from ml.retrieval.items import logged_columns
from ml.schema import ARROW_TYPES, EVENT_TIME
from ml.serving.faults import WrongColumn
from ml.serving.served_log import ServedLog, current_request
from ml.serving.typed_values import typed_array


@dataclass
class LookupCounts:
    """Look-ups of entities.

    Attributes:
        lookups: Number of entities, by table.
        misses: Number of these that have no event, by table. They have the default values.
    """

    lookups: Counter[str] = field(default_factory=Counter)
    misses: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class _Grouped:
    """The tables as of a refresh."""

    at: int
    tables: tuple[TableEvents, ...]


class ServedTables:
    """Computes the values of feature tables for requests. Threads may use it at any time.

    Args:
        spec: The dataset.
        log: Where the events that a refresh takes are noted; None to note none.

    Attributes:
        lookup_counts: All look-ups so far.
    """

    def __init__(self, spec: DatasetSpec, log: ServedLog | None = None) -> None:
        self.spec, self.lookup_counts, self._served = spec, LookupCounts(), log
        items = set(logged_columns(spec)) if spec.item else set[str]()
        self._of_items = {table.name: sorted(items & set(table.row_columns)) for table in spec.feature_tables}
        self._span = round(spec.table_look_back_hours * MICROSECONDS_PER_HOUR)
        self._lock, self._pending, self._received = threading.Lock(), list[pa.Table](), list[pa.Table]()
        self._log = EventLog.empty(spec)
        self._grouped = _Grouped(0, ())
        self.refresh(0)

    @property
    def context_columns(self) -> set[str]:
        """Columns of the log that a request describes and that tables read."""
        used = {column for table in self.spec.feature_tables for column in table.row_columns}
        return used - {column for columns in self._of_items.values() for column in columns}

    @property
    def request_columns(self) -> set[str]:
        """Columns of features that depend on the request alone."""
        return {name for table in self.spec.feature_tables if not self._of_items[table.name] for name in self._names(table)}

    @property
    def item_columns(self) -> set[str]:
        """Columns of features that depend on the item, or on the request and the item."""
        return {name for table in self.spec.feature_tables if self._of_items[table.name] for name in self._names(table)}

    @property
    def at(self) -> int:
        """Time of the last refresh, in microseconds since 1970 UTC."""
        return self._grouped.at

    def load(self, log: EventLog) -> None:
        """Add events in time order, such as those of a day. They count from the next refresh on."""
        if self.spec.feature_tables:  # otherwise no refresh takes them
            with self._lock:
                self._pending.append(log.rows)

    def append(self, rows: pa.Table) -> None:
        """Add N rows with columns of the log and `event_time`, in any order. They count from the next refresh on."""
        if not self.spec.feature_tables:
            return
        columns = {}
        for one in event_schema(self.spec):
            if one.name in (ARRIVED, REPLACED):
                continue
            has_column = one.name in rows.column_names
            columns[one.name] = rows[one.name].cast(one.type) if has_column else pa.nulls(len(rows), one.type)
        rows = EventLog.of(self.spec, pa.table(columns)).rows
        with self._lock:
            self._pending.append(rows)
            self._received.append(rows)

    def refresh(self, now: int) -> None:
        """Group the events that are known at a point in time, and drop those that no window reaches any more."""
        if not self.spec.feature_tables:
            return
        with self._lock:
            pending, self._pending = self._pending, []
            received, self._received = self._received, []
        if self._served is not None:
            self._served.refreshed(now, received)
        if not pending and self._grouped.tables:
            self._grouped = _Grouped(now, self._grouped.tables)
            return
        rows = pa.concat_tables([self._log.rows, *pending]).combine_chunks()
        times = rows[EVENT_TIME].to_numpy()
        if (np.diff(times) < 0).any():
            rows = rows.take(pa.array(np.argsort(times, kind="stable")))
            times = rows[EVENT_TIME].to_numpy()
        self._log = EventLog(rows.slice(int(np.searchsorted(times, now - self._span))))
        tables = tuple(TableEvents(table, self.spec, self._log) for table in self.spec.feature_tables)
        for table in tables:
            table.prepare()
        self._grouped = _Grouped(now, tables)

    def of_request(self, context: Mapping[str, Any], now: int) -> dict[str, pa.Array]:
        """Compute the columns that depend on the request alone.

        Args:
            context: Columns of the log that describe the request.
            now: Time of the request, in microseconds since 1970 UTC.

        Returns:
            Arrays of one value, by column.

        Raises:
            WrongColumn: A value has another type than the column.
        """
        found = self._values(None, context, now)
        if (noted := current_request()) is not None:
            noted.of_request = found
        return found

    def of_items(self, items: pa.Table, context: Mapping[str, Any], now: int, counted: bool = True) -> pa.Table:
        """Append the columns that depend on the item.

        Args:
            items: L rows with the columns of the log that describe items.
            context: Columns of the log that describe the request.
            now: Time of the request, in microseconds since 1970 UTC.
            counted: Whether the look-ups are counted.
        """
        for name, values in self._values(items, context, now, counted).items():
            items = items.append_column(name, values)
        if (noted := current_request()) is not None:
            noted.items = items
        return items

    def _values(
        self, items: pa.Table | None, context: Mapping[str, Any], now: int, counted: bool = True
    ) -> dict[str, pa.Array]:
        found, count = {}, 1 if items is None else len(items)

        def keys(seed: str, column: str) -> NDArray[np.int64]:
            if items is not None and column in items.column_names:
                return column_keys(items, seed, column)
            kind = ARROW_TYPES[self.spec.table_columns[column]]
            try:
                value = typed_array([context.get(column)], kind)
            except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError, OverflowError) as error:
                raise WrongColumn(f"context.{column}: expected {kind}, found {context[column]!r:.80}") from error
            return np.repeat(hash_values(seed, value), count)

        at, grouped, noted = np.full(count, now), self._grouped, current_request()
        if noted is not None:
            grouped = noted.tables = noted.tables or grouped
            noted.at, noted.refreshed_at, noted.given = now, grouped.at, context
        for events in grouped.tables:
            table = events.table
            if (items is None) == bool(self._of_items[table.name]):
                continue
            queries = EntityQueries.of_keys(table, keys, at)
            found |= events.columns(queries)
            if not counted:
                continue
            with self._lock:
                self.lookup_counts.lookups[table.name] += count
                self.lookup_counts.misses[table.name] += int((~events.has_events(queries.keys)).sum())
        return found

    def _names(self, table: FeatureTable) -> Sequence[str]:
        return [name for value in table.values for name in table_columns(self.spec, value)]
