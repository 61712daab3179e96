"""Events of a log with two clocks: when each happened, and when it was known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ml.catalog.spec import DatasetSpec, FeatureTable
from ml.days import trailing_days
from ml.features.hashing import combine, hash_values
from ml.schema import ARROW_TYPES, EVENT_TIME

ARRIVED = "arrived"
"""Column with the instant at which an event that arrived late was first in the lake; 0 for events that arrived in time."""


def event_schema(spec: DatasetSpec) -> pa.Schema:
    """Returns the schema of the events of a dataset's feature tables."""
    columns = [(name, ARROW_TYPES[kind]) for name, kind in spec.table_columns.items()]
    return pa.schema([(EVENT_TIME, pa.int64()), *columns, (ARRIVED, pa.int64())])


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
        rows: event_time, `ARRIVED`, and the columns of `spec.table_columns`.
    """

    rows: pa.Table

    @classmethod
    def of(cls, spec: DatasetSpec, rows: pa.Table) -> EventLog:
        """Builds the events of rows of a log.

        Args:
            spec: The dataset.
            rows: Rows with event_time and the columns that the feature tables read, in time order. Without a column `ARRIVED`,
                all arrived in time.
        """
        arrived = rows[ARRIVED] if ARRIVED in rows.column_names else pa.array(np.zeros(len(rows), np.int64))
        schema = event_schema(spec)
        kept = rows.select(schema.names[:-1]).append_column(ARRIVED, arrived)
        return cls(kept.cast(schema).combine_chunks())

    @classmethod
    def empty(cls, spec: DatasetSpec) -> EventLog:
        """Returns a log without events."""
        return cls(event_schema(spec).empty_table())

    @classmethod
    def join(cls, parts: list[EventLog]) -> EventLog:
        """Concatenates logs, each of which continues the one before it."""
        return cls(pa.concat_tables([part.rows for part in parts]).combine_chunks())

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


def entity_keys(rows: pa.Table, table: FeatureTable) -> NDArray[np.int64]:
    """Returns the hashed entities (int64 [N]) of N rows; 0 if a column of the entity is missing."""
    return combine(*(column_keys(rows, table.name, column) for column in table.entity))


def column_keys(rows: pa.Table, seed: str, column: str) -> NDArray[np.int64]:
    """Returns the hashes (int64 [N]) of a column of N rows; 0 for missing values."""
    values = rows[column]
    whole = values.unify_dictionaries() if pa.types.is_dictionary(values.type) else values
    return hash_values(seed, whole.combine_chunks())
