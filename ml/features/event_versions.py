"""Adds what has changed in the log of a day to the events that the day had.

Events are compared by their values. An event that the log did not have is late. An event that the log no longer has is
kept, because rows that exist have counted it. If only its label has changed, both versions are kept: the old one ends when the
new one becomes known.
"""

from __future__ import annotations

from collections.abc import Collection
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


def add_changes(before: EventLog, now: EventLog, arrived: int, labels: Collection[str]) -> ChangedEvents:
    """Adds late events and corrected labels to the events of a day.

    Args:
        before: The events that the day had.
        now: The events of its log, in time order.
        arrived: Instant from which new events and new versions are known, in microseconds.
        labels: Columns that differ between the versions of an event.

    Returns:
        The events of `before`, and the new ones, in time order. Events of one instant are in the order in which they arrived.
    """
    current = np.flatnonzero(before.rows[REPLACED].is_null().to_numpy())
    old, new = _identities(before.rows.take(pa.array(current)), ()), _identities(now.rows, ())
    gone, come = current[~np.isin(old, new)], np.flatnonzero(~np.isin(new, old))
    lost, added = before.rows.take(pa.array(gone)), now.rows.take(pa.array(come))
    corrected = gone[np.isin(_identities(lost, labels), _identities(added, labels))]
    is_replaced = np.isin(np.arange(len(before.rows)), corrected)
    ends = pa.array(np.where(is_replaced, arrived, 0), mask=~is_replaced)
    kept = _with(before.rows, REPLACED, pa.chunked_array([before.rows[REPLACED].combine_chunks().fill_null(ends)]))
    rows = pa.concat_tables([kept, _with(added, ARRIVED, pa.array(np.full(len(added), arrived)))])
    order = np.argsort(rows[EVENT_TIME].to_numpy(), kind="stable")
    return ChangedEvents(EventLog(rows.take(pa.array(order)).combine_chunks()), len(gone) - len(corrected))


def label_columns(spec: DatasetSpec) -> set[str]:
    """Returns the columns of the log that change if a label is corrected."""
    return {rule.column for rule in spec.label_rules} | set(spec.action_columns)


def _with(rows: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    return rows.set_column(rows.schema.get_field_index(name), name, values)


def _identities(rows: pa.Table, without: Collection[str]) -> NDArray[np.uint64]:
    """Returns a hash of each row's values (uint64 [N]); rows with equal values are numbered, so that each has its own."""
    key = rows[EVENT_TIME].to_numpy().view(np.uint64)
    for name in rows.column_names:
        if name not in (EVENT_TIME, ARRIVED, REPLACED, *without):
            key = mix64_array(key) + hash_values("event", rows[name].combine_chunks()).view(np.uint64)
    order = np.argsort(key, kind="stable")
    first = np.concatenate(([True], key[order][1:] != key[order][:-1])) if len(key) else np.zeros(0, np.bool_)
    starts = np.maximum.accumulate(np.where(first, np.arange(len(key)), 0))
    number = np.empty(len(key), np.uint64)
    number[order] = np.arange(len(key)) - starts
    return mix64_array(key) + number
