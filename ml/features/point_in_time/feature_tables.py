"""Feature tables: the values of a row's entities as of the row's instant, which features read as columns."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ml.catalog.feature_tables import CovisitationValue, LastValue, RateValue
from ml.catalog.spec import DatasetSpec, FeatureTable, FeatureValue
from ml.features.hashing import hash_values
from ml.features.point_in_time.covisitation import CoVisits
from ml.features.point_in_time.event_log import EventLog, column_keys, entity_keys, known_at
from ml.features.point_in_time.values import count_value, rate_value, recency_value, sampling_hours, span_of
from ml.features.point_in_time.windows import Timeline
from ml.schema import EVENT_TIME, HISTORY_PREFIX

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
        values = _Values(table, spec, rows, log)
        for value in table.values:
            if value.last is None:
                rows = rows.append_column(value.name, values.column(value))
                continue
            for feature in spec.sparse:
                if feature.history == value.name:
                    rows = rows.append_column(HISTORY_PREFIX + feature.name, values.ids(value.last))
    return rows


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
    values = _Values(table, spec, rows, log)
    return {value.name: values.lists(value.last) if value.last else values.column(value) for value in table.values}


class _Values:
    """The values of one table for N rows."""

    def __init__(self, table: FeatureTable, spec: DatasetSpec, rows: pa.Table, log: EventLog) -> None:
        self._table, self._spec, self._rows = table, spec, rows
        self._delay = spec.known_after(table)
        self._sampling = sampling_hours(spec, table)
        self._events = log.matching(table)
        self._at = rows[EVENT_TIME].to_numpy()
        self._keys = entity_keys(rows, table)
        self._event_keys = entity_keys(self._events, table)
        self._time, self._known = self._events[EVENT_TIME].to_numpy(), known_at(self._events, self._delay)
        self._timeline = Timeline.of(self._event_keys, self._time, self._known, self._delay)

    def column(self, value: FeatureValue) -> pa.Array:
        """Computes a value that is one number for each row."""
        if value.count:
            counts = self._timeline.count(self._keys, self._at, span_of(value.hours))
            return pa.array(count_value(counts, value.hours, self._sampling))
        if value.rate:
            return pa.array(self._rate(value.rate))
        if value.covisitation:
            return pa.array(self._covisitation(value.covisitation), from_pandas=True)
        return pa.array(self._recency(value.hours), from_pandas=True)

    def ids(self, value: LastValue) -> pa.Array:
        """Lists the ids of a column's values in the last events of each row's entity."""
        ids = hash_values(self._spec.feature_of(value.column) or "", self._events[value.column].combine_chunks())
        offsets, events = self._last(value)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(ids[events]))

    def lists(self, value: LastValue) -> pa.Array:
        """Lists a column's values in the last events of each row's entity."""
        offsets, events = self._last(value)
        held = self._events[value.column].combine_chunks().take(pa.array(events))
        return pa.ListArray.from_arrays(pa.array(offsets), held)

    def _last(self, value: LastValue) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Finds the last events of each row's entity, as offsets and indices of events."""
        timeline = self._without(self._events[value.column])
        offsets, places = timeline.last(self._keys, self._at, span_of(value.hours), value.most)
        return offsets, timeline.place[places]

    def _without(self, column: pa.ChunkedArray) -> Timeline:
        """Returns the timeline without the events in which a column is missing."""
        if not column.null_count and not pa.types.is_floating(column.type):
            return self._timeline
        missing = pc.call_function("is_null", [column], pc.NullOptions(nan_is_null=True)).to_numpy()
        return Timeline.of(np.where(missing, 0, self._event_keys), self._time, self._known, self._delay)

    def _rate(self, rate: RateValue) -> NDArray[np.float64]:
        column = self._events[rate.column]
        timeline = self._without(column)
        numbers = column.cast(pa.float64(), safe=False).fill_null(0.0).to_numpy()[timeline.place]
        weights = (numbers >= rate.at_least).astype(np.float64) if rate.at_least is not None else numbers
        span = span_of(rate.hours)
        count = timeline.count(self._keys, self._at, span)
        total = timeline.sum(self._keys, self._at, span, weights)
        return rate_value(total, count, rate)

    def _recency(self, hours: float) -> NDArray[np.float64]:
        offsets, places = self._timeline.last(self._keys, self._at, span_of(hours), 1)
        elapsed = np.full(len(self._at), np.nan)
        found = np.diff(offsets) > 0
        elapsed[found] = self._at[found] - self._timeline.time[places]
        return recency_value(elapsed, hours, self._sampling)

    def _covisitation(self, value: CovisitationValue) -> NDArray[np.float64]:
        session = column_keys(self._events, SESSION_SEED, value.session)
        visits = CoVisits.of(
            session, self._event_keys, self._time, self._known, self._delay, span_of(value.hours), value.context
        )
        return visits.strength(column_keys(self._rows, SESSION_SEED, value.session), self._keys, self._at, value.strength)
