"""Events of a log with two clocks: when each happened, and when it was known.

An event whose label was corrected is there once for each version. A version ends when the next one is known.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ml.catalog.spec import DatasetSpec, FeatureTable
from ml.days import trailing_days
from ml.features.hashing import combine, hash_values
from ml.features.point_in_time.windows import EVER, NEVER_REPLACED
from ml.schema import ARROW_TYPES, EVENT_TIME

ARRIVED = "arrived"
"""Column with the instant at which an event that arrived late was first in the lake; 0 for events that arrived in time."""
REPLACED = "replaced_at"
"""Column with the instant at which another version of an event was first in the lake; missing for the current version."""


def event_schema(spec: DatasetSpec) -> pa.Schema:
    """Returns the schema of the events of a dataset's feature tables."""
    columns = [(name, ARROW_TYPES[kind]) for name, kind in spec.table_columns.items()]
    return pa.schema([(EVENT_TIME, pa.int64()), *columns, (ARRIVED, pa.int64()), (REPLACED, pa.int64())])


def table_days(spec: DatasetSpec, day: str) -> list[str]:
    """Returns the earlier days, in order, whose events the feature tables of a day's rows may need."""
    if not spec.feature_tables:
        return []
    # A day of the log's zone may be an hour longer or shorter than 24.
    return [other for other in trailing_days(day, int(spec.table_look_back_hours // 23) + 1) if other >= spec.first_day]


@dataclass(frozen=True)
class EventLog:
    """E events in time order.

    Attributes:
        rows: event_time, the columns of `spec.table_columns`, `ARRIVED` and `REPLACED`.
    """

    rows: pa.Table

    @classmethod
    def of(cls, spec: DatasetSpec, rows: pa.Table) -> EventLog:
        """Builds the events of rows of a log.

        Args:
            spec: The dataset.
            rows: Rows with event_time and the columns that the feature tables read, in time order. Without a column `ARRIVED`,
                all arrived in time; without a column `REPLACED`, all are current.
        """
        if ARRIVED not in rows.column_names:
            rows = rows.append_column(ARRIVED, pa.array(np.zeros(len(rows), np.int64)))
        if REPLACED not in rows.column_names:
            rows = rows.append_column(REPLACED, pa.nulls(len(rows), pa.int64()))
        schema = event_schema(spec)
        return cls(rows.select(schema.names).cast(schema).combine_chunks())

    @classmethod
    def empty(cls, spec: DatasetSpec) -> EventLog:
        """Returns a log without events."""
        return cls(event_schema(spec).empty_table())

    @classmethod
    def join(cls, parts: list[EventLog]) -> EventLog:
        """Concatenates logs, each of which continues the one before it."""
        return cls(pa.concat_tables([part.rows for part in parts]).combine_chunks())

    def as_of(self, instant: int) -> EventLog:
        """Returns the versions of events that were in the lake at an instant; at 0, the events that arrived in time."""
        rows = self.rows.filter(pc.field(ARRIVED) <= instant)
        had_ended = pc.call_function("less_equal", [rows[REPLACED], pa.scalar(instant, pa.int64())])
        replaced = pc.call_function("if_else", [had_ended, rows[REPLACED], pa.scalar(None, pa.int64())])
        return EventLog(rows.set_column(rows.column_names.index(REPLACED), REPLACED, replaced))

    def matching(self, table: FeatureTable) -> pa.Table:
        """Returns the events that count in a feature table."""
        if table.where is None:
            return self.rows
        column = self.rows[table.where.column]
        return self.rows.filter(
            pc.call_function("equal", [column, pa.scalar(table.where.equals, column.type)])
        )  # missing values do not match


def known_at(events: pa.Table, delay: int) -> NDArray[np.int64]:
    """Returns the known-at times of events (int64 [E]): `delay` after the event, and not before it arrived."""
    return np.maximum(events[EVENT_TIME].to_numpy() + delay, events[ARRIVED].to_numpy())


def known_until(events: pa.Table, delay: int) -> NDArray[np.int64]:
    """Returns the instants from which events no longer count (int64 [E]): when the version that replaces them is known.

    Events that are not replaced count indefinitely (`EVER`). If none is replaced, the array is empty (`NEVER_REPLACED`).
    """
    if events[REPLACED].null_count == len(events):
        return NEVER_REPLACED
    replaced = events[REPLACED].fill_null(EVER).to_numpy()
    return np.maximum(events[EVENT_TIME].to_numpy() + delay, replaced)


def entity_keys(rows: pa.Table, table: FeatureTable) -> NDArray[np.int64]:
    """Returns the hashed entities (int64 [N]) of N rows; 0 if a column of the entity is missing."""
    return combine(*(column_keys(rows, table.name, column) for column in table.entity))


def column_keys(rows: pa.Table, seed: str, column: str) -> NDArray[np.int64]:
    """Returns the hashes (int64 [N]) of a column of N rows; 0 for missing values."""
    values = rows[column]
    whole = values.unify_dictionaries() if pa.types.is_dictionary(values.type) else values
    return hash_values(seed, whole.combine_chunks())
