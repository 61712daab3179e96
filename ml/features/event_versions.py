"""Adds what has changed in the log of a day to the events that the day had.

Events are compared by their values in the columns that both have. An event that the log did not have is late. An event that the
log no longer has is kept, because rows that exist have counted it. If only its label has changed, both versions are kept: the
old one ends when the new one becomes known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ml.catalog.spec import DatasetSpec
from ml.features.hashing import hash_values
from ml.features.point_in_time.event_log import ARRIVED, REPLACED, EventLog
from ml.hashing import mix64_array
from ml.schema import EVENT_TIME


@dataclass(frozen=True)
class ChangedEvents:
    """The events of a day whose log has changed.

    Attributes:
        log: All versions of the events.
        removed: Number of current events that the log no longer has.
    """

    log: EventLog
    removed: int


def add_changes(spec: DatasetSpec, stored: pa.Table, now: EventLog, arrived: int) -> ChangedEvents:
    """Adds late events and corrected labels to the events of a day.

    Args:
        spec: The dataset.
        stored: The events that the day had, as stored. The feature tables may have read other columns then. New columns have
            the values of the log, and are missing in events that the log no longer has.
        now: The events of its log, in time order.
        arrived: Instant from which new events and new versions are known, in microseconds.

    Returns:
        The events of `stored`, and the new ones, in time order. Events of one instant are in the order in which they arrived.
    """
    new_columns = [field for field in now.rows.schema if field.name not in stored.column_names]
    shared = [name for name in now.rows.column_names if name in stored.column_names and name != ARRIVED]
    for field in new_columns:
        stored = stored.append_column(field, pa.nulls(len(stored), field.type))
    before = EventLog.of(spec, stored).rows
    current = np.flatnonzero(before[REPLACED].is_null().to_numpy())
    old, new = _identities(before.take(pa.array(current)), shared), _identities(now.rows, shared)
    _, both_old, both_new = np.intersect1d(old, new, assume_unique=True, return_indices=True)
    # Position of each event in the log, or -1.
    position = np.full(len(before), -1)
    position[current[both_old]] = both_new
    for field in new_columns:
        before = _replace_column(before, field.name, now.rows[field.name].take(pa.array(position, mask=position < 0)))
    removed, added = np.setdiff1d(current, current[both_old]), np.setdiff1d(np.arange(len(new)), both_new)
    removed_rows, added_rows = before.take(pa.array(removed)), now.rows.take(pa.array(added))
    unlabelled = [name for name in shared if name not in _label_columns(spec)]
    corrected = removed[np.isin(_identities(removed_rows, unlabelled), _identities(added_rows, unlabelled))]
    is_replaced = np.isin(np.arange(len(before)), corrected)
    ends = pa.array(np.where(is_replaced, arrived, 0), mask=~is_replaced)
    kept = _replace_column(before, REPLACED, before[REPLACED].combine_chunks().fill_null(ends))
    rows = pa.concat_tables([kept, _replace_column(added_rows, ARRIVED, pa.array(np.full(len(added_rows), arrived)))])
    order = np.argsort(rows[EVENT_TIME].to_numpy(), kind="stable")
    return ChangedEvents(EventLog(rows.take(pa.array(order)).combine_chunks()), len(removed) - len(corrected))


def _label_columns(spec: DatasetSpec) -> set[str]:
    """Returns the columns of the log that change if a label is corrected."""
    return {rule.column for rule in spec.label_rules} | set(spec.action_columns)


def _replace_column(rows: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    return rows.set_column(rows.schema.get_field_index(name), name, values)


def _identities(rows: pa.Table, columns: Sequence[str]) -> NDArray[np.uint64]:
    """Returns a hash of each row's values (uint64 [N]); rows with equal values are numbered, so that each has its own."""
    key = rows[EVENT_TIME].to_numpy().view(np.uint64)
    for name in columns:
        if name not in (EVENT_TIME, REPLACED):
            key = mix64_array(key) + hash_values("event", rows[name].combine_chunks()).view(np.uint64)
    order = np.argsort(key, kind="stable")
    first = np.concatenate(([True], key[order][1:] != key[order][:-1])) if len(key) else np.zeros(0, np.bool_)
    starts = np.maximum.accumulate(np.where(first, np.arange(len(key)), 0))
    number = np.empty(len(key), np.uint64)
    number[order] = np.arange(len(key)) - starts
    return mix64_array(key) + number
