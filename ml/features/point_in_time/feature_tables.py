"""Feature tables: the values of a row's entities as of the row's instant, which features read as columns."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ml.catalog.feature_tables import CovisitationValue, LastValue, RateValue
from ml.catalog.spec import DatasetSpec, FeatureTable, FeatureValue
from ml.features.hashing import combine, hash_values
from ml.features.point_in_time.covisitation import CoVisits
from ml.features.point_in_time.event_log import EventLog, column_keys, entity_keys, known_at, known_until
from ml.features.point_in_time.values import count_value, rate_numbers, rate_value, recency_value, sampling_hours, span_of
from ml.features.point_in_time.windows import RunningSums, Timeline
from ml.schema import EVENT_TIME, HISTORY_PREFIX, MISSING_ID

SESSION_SEED = "session"


def with_feature_tables(rows: pa.Table, spec: DatasetSpec, log: EventLog) -> pa.Table:
    """Appends the values of all feature tables.

    Args:
        rows: N rows with event_time and the columns of the entities and sessions.
        spec: The dataset.
        log: Events from the longest window before the first row on. Later events than a row do not change its values.

    Returns:
        The rows with a column for each value, and a list<int64> column of ids for each history feature that reads a `last`
        value.
    """
    for table in spec.feature_tables:
        events, queries = TableEvents(table, spec, log), EntityQueries.of(rows, table)
        for name, column in events.columns(queries):
            rows = rows.append_column(name, column)
    return rows


def table_columns(spec: DatasetSpec, value: FeatureValue) -> list[str]:
    """Returns the columns that a value adds to rows: itself, or a list of ids for each history feature that reads it."""
    if value.last is None:
        return [value.name]
    return [HISTORY_PREFIX + feature.name for feature in spec.sparse if feature.history == value.name]


def table_values(rows: pa.Table, table: FeatureTable, spec: DatasetSpec, log: EventLog) -> dict[str, pa.Array]:
    """Computes the values of one table as the online store answers them: `last` values are lists of the column's values.

    Args:
        rows: N rows with event_time and the columns of the entity and the sessions.
        table: The table.
        spec: The dataset.
        log: Events from the longest window before the first row on.

    Returns:
        An array [N] for each value, by name.
    """
    events, queries = TableEvents(table, spec, log), EntityQueries.of(rows, table)
    return {v.name: events.lists(v.last, queries) if v.last else events.column(v, queries) for v in table.values}


@dataclass(frozen=True)
class EntityQueries:
    """N entities as of instants.

    Attributes:
        keys: int64 [N], hashed entities.
        at: int64 [N], instants in microseconds.
        sessions: int64 [N], hashed sessions by the column that identifies them, for co-visitations.
    """

    keys: NDArray[np.int64]
    at: NDArray[np.int64]
    sessions: Mapping[str, NDArray[np.int64]]

    @classmethod
    def of(cls, rows: pa.Table, table: FeatureTable) -> EntityQueries:
        """Returns the entities of N rows, as of the rows' instants."""
        return cls.of_keys(table, lambda seed, column: column_keys(rows, seed, column), rows[EVENT_TIME].to_numpy())

    @classmethod
    def of_keys(
        cls,
        table: FeatureTable,
        keys: Callable[[str, str], NDArray[np.int64]],
        at: NDArray[np.int64],
        names: Collection[str] | None = None,
    ) -> EntityQueries:
        """Returns entities whose columns do not come from one table.

        Args:
            table: The feature table.
            keys: Returns the hashes, int64 [N], of a column with a seed: `keys(seed, column)`.
            at: int64 [N], instants in microseconds.
            names: Names of the values to compute; by default all.
        """
        wanted = [value for value in table.values if names is None or value.name in names]
        sessions = {value.covisitation.session for value in wanted if value.covisitation}
        entities = combine(*(keys(table.name, column) for column in table.entity))
        return cls(entities, at, {column: keys(SESSION_SEED, column) for column in sessions})


class TableEvents:
    """The events of one table, grouped by entity: values of any entities as of any instants.

    What does not depend on the entities and instants is computed at the first use of a value, or by `prepare`.

    Args:
        table: The table.
        spec: The dataset.
        log: Events from the longest window before the first instant on.
    """

    def __init__(self, table: FeatureTable, spec: DatasetSpec, log: EventLog) -> None:
        self.table, self._spec = table, spec
        self._delay = spec.known_after(table)
        self._sampling = sampling_hours(spec, table)
        self._events = log.matching(table)
        self._keys = entity_keys(self._events, table)
        self._time, self._known = self._events[EVENT_TIME].to_numpy(), known_at(self._events, self._delay)
        self._until = known_until(self._events, self._delay)
        self._timeline = Timeline.of(self._keys, self._time, self._known, self._delay, self._until)
        self._visits: dict[str, CoVisits] = {}
        self._sums: dict[str, tuple[Timeline, RunningSums]] = {}
        self._lists: dict[str, Timeline] = {}
        self._ids: dict[str, NDArray[np.int64]] = {}

    def prepare(self) -> None:
        """Computes what all values share."""
        one = np.ones(1, np.int64)
        columns = {value.covisitation.session for value in self.table.values if value.covisitation}
        queries = EntityQueries(one, one, dict.fromkeys(columns, one))
        for value in self.table.values:
            if value.last is None:
                self.column(value, queries)
            elif table_columns(self._spec, value):
                self.ids(value.last, queries)

    def has_events(self, keys: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Returns whether each of N entities has an event, bool [N]."""
        starts, ends = self._timeline.ranges(keys)
        return ends > starts

    def columns(self, queries: EntityQueries, names: Collection[str] | None = None) -> Iterator[tuple[str, pa.Array]]:
        """Yields the columns that the values add to rows, [N] each: name and values.

        Args:
            queries: The entities and instants of N rows.
            names: Names of the values to compute; by default all.
        """
        for value in self.table.values:
            for name in table_columns(self._spec, value) if names is None or value.name in names else ():
                yield name, self.ids(value.last, queries) if value.last else self.column(value, queries)

    def column(self, value: FeatureValue, queries: EntityQueries) -> pa.Array:
        """Computes a value that is one number for each of N entities."""
        if value.count:
            counts = self._timeline.count(queries.keys, queries.at, span_of(value.hours))
            return pa.array(count_value(counts, value.hours, self._sampling))
        if value.rate:
            return pa.array(self._rate(value, value.rate, queries))
        if value.covisitation:
            return pa.array(self._covisitation(value.name, value.covisitation, queries), from_pandas=True)
        return pa.array(self._recency(value.hours, queries), from_pandas=True)

    def ids(self, value: LastValue, queries: EntityQueries) -> pa.Array:
        """Lists the ids of a column's values in the last events of each of N entities."""
        if value.column not in self._ids:
            values = self._events[value.column].combine_chunks()
            self._ids[value.column] = hash_values(self._spec.feature_of(value.column) or "", values)
        offsets, events = self._last(value, queries)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(self._ids[value.column][events]))

    def lists(self, value: LastValue, queries: EntityQueries) -> pa.Array:
        """Lists a column's values in the last events of each of N entities."""
        offsets, events = self._last(value, queries)
        held = self._events[value.column].combine_chunks().take(pa.array(events))
        return pa.ListArray.from_arrays(pa.array(offsets), held)

    def _last(self, value: LastValue, queries: EntityQueries) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Finds the last events of each entity, as offsets and indices of events."""
        if value.column not in self._lists:
            null = self._events[value.column].is_null(nan_is_null=True).to_numpy()
            self._lists[value.column] = self._without(null)
        timeline = self._lists[value.column]
        offsets, places = timeline.last(queries.keys, queries.at, span_of(value.hours), value.most)
        return offsets, timeline.place[places]

    def _without(self, missing: NDArray[np.bool_]) -> Timeline:
        """Returns the timeline without some events."""
        if not missing.any():
            return self._timeline
        return Timeline.of(np.where(missing, MISSING_ID, self._keys), self._time, self._known, self._delay, self._until)

    def _rate(self, value: FeatureValue, rate: RateValue, queries: EntityQueries) -> NDArray[np.float64]:
        if value.name not in self._sums:
            numbers = rate_numbers(self._events[rate.column], rate.at_least)
            timeline = self._without(np.isnan(numbers))
            self._sums[value.name] = timeline, RunningSums.of(numbers[timeline.place])
        (timeline, sums), span = self._sums[value.name], span_of(rate.hours)
        count = timeline.count(queries.keys, queries.at, span)
        return rate_value(timeline.sum(queries.keys, queries.at, span, sums), count, rate)

    def _recency(self, hours: float, queries: EntityQueries) -> NDArray[np.float64]:
        offsets, places = self._timeline.last(queries.keys, queries.at, span_of(hours), 1)
        elapsed = np.full(len(queries.at), np.nan)
        found = np.diff(offsets) > 0
        elapsed[found] = queries.at[found] - self._timeline.time[places]
        return recency_value(elapsed, hours, self._sampling)

    def _covisitation(self, name: str, value: CovisitationValue, queries: EntityQueries) -> NDArray[np.float64]:
        if name not in self._visits:
            session = column_keys(self._events, SESSION_SEED, value.session)
            self._visits[name] = CoVisits.of(
                session, self._keys, self._time, self._known, self._until, self._delay, span_of(value.hours), value.context
            )
        return self._visits[name].strength(queries.sessions[value.session], queries.keys, queries.at, value.strength)
