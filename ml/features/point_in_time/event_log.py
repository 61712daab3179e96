"""Events of a log with two clocks: when each happened, and when it was known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ml.catalog.spec import DatasetSpec, FeatureTable
from ml.features.hashing import combine, hash_values
from ml.schema import ARROW_TYPES, EVENT_TIME

ARRIVED = "arrived"
"""Column with the instant at which an event that arrived late was first in the lake; 0 for events that arrived in time."""


def table_columns(spec: DatasetSpec) -> list[str]:
    """Returns the columns of the log that the feature tables of a dataset read, in the order of the log."""
    used = {column for table in spec.feature_tables for column in table.columns}
    return [column for column in (spec.source.columns | spec.action_columns) if column in used]


def look_back(spec: DatasetSpec) -> float:
    """Returns the hours before a row whose events the feature tables of a dataset need; 0 without tables."""
    return max((table.look_back_hours for table in spec.feature_tables), default=0.0)


@dataclass(frozen=True)
class EventLog:
    """E events in time order.

    Attributes:
        rows: event_time, `ARRIVED`, and the columns of `table_columns(spec)`.
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
        names = [EVENT_TIME, *table_columns(spec)]
        kept = rows.select(names)
        arrived = rows[ARRIVED] if ARRIVED in rows.column_names else pa.array(np.zeros(len(rows), np.int64))
        types = spec.source.columns | spec.action_columns
        schema = pa.schema([(EVENT_TIME, pa.int64()), *((name, ARROW_TYPES[types[name]]) for name in names[1:])])
        return cls(kept.cast(schema).append_column(ARRIVED, arrived).combine_chunks())

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
