"""Validates typed rows: their event time, their day and their label. Rows that fail are quarantined.

`ml.logs.formats` reads the rows.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute creates its functions at import, so type checkers do not see them)

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ml.catalog.log_spec import LogSpec
from ml.logs.clock import day_bounds, days_of, event_times
from ml.logs.quarantine import LABEL_MISSING, LABEL_UNKNOWN, TIME_MISSING, TIME_RANGE, TIME_UNPARSABLE

# Codes of `ValidatedRows.fault`; 0 is a good row.
FAULTS = ("", TIME_MISSING, TIME_UNPARSABLE, TIME_RANGE, LABEL_MISSING, LABEL_UNKNOWN)
UNPLACED = -1


@dataclass(frozen=True)
class ValidatedRows:
    """The result of validating N typed rows.

    Attributes:
        times: Event times, int64 [N], microseconds since 1970 UTC; 0 in a log without a clock.
        days: Index of the log's day that each row belongs to, int32 [N]; UNPLACED without a readable time. For a bad row, it
            is the day in whose quarantine the row goes.
        fault: Code in `FAULTS`, int8 [N].
    """

    times: NDArray[np.int64]
    days: NDArray[np.int32]
    fault: NDArray[np.int8]


def validate_rows(log: LogSpec, table: pa.Table, file_day: int | None) -> ValidatedRows:
    """Validates the rows of one file.

    Args:
        log: The log, with its clock, days and label column.
        table: Typed rows with the source's columns, [N].
        file_day: Index of the day in a dated path; it may be outside the log's days.
    """
    count = table.num_rows
    fault, times, days = np.zeros(count, np.int8), np.zeros(count, np.int64), np.full(count, UNPLACED, np.int32)
    if (column := log.time.column) is not None:
        bounds = day_bounds(log)
        times, known = event_times(table.column(column), log.time)
        missing = pc.is_null(table.column(column)).to_numpy()
        found = days_of(times, bounds)
        nearest = np.clip(found, 0, len(bounds) - 2)
        beyond = nearest != found
        if file_day is not None:
            far = np.abs(found - file_day) > log.source.spill_days
            beyond, nearest = beyond | far, np.where(far, np.clip(file_day, 0, len(bounds) - 2), nearest)
        fault[beyond] = FAULTS.index(TIME_RANGE)
        fault[~known] = FAULTS.index(TIME_UNPARSABLE)
        fault[missing] = FAULTS.index(TIME_MISSING)
        days = np.where(known, nearest, UNPLACED).astype(np.int32)
    good = fault == 0
    for reason, rows in _label_faults(log, table).items():
        fault[rows & good] = FAULTS.index(reason)
    return ValidatedRows(times, days, fault)


def _label_faults(log: LogSpec, table: pa.Table) -> dict[str, NDArray[np.bool_]]:
    if log.label is None:
        return {}
    label = table.column(log.label.column)
    missing = pc.is_null(label).to_numpy()
    found = {LABEL_MISSING: missing}
    if log.label.binary and not pa.types.is_boolean(label.type):
        found[LABEL_UNKNOWN] = ~missing & ~pc.is_in(label, pa.array([0, 1], label.type)).to_numpy()
    return found
