"""Validates typed rows: their event time, their day and their label. Rows that fail are quarantined.

`ml.logs.formats` reads the rows.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute creates its functions at import, so type checkers do not see them)

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ml.catalog.log_spec import LogSpec
from ml.days import midnight
from ml.logs.clock import days_of, event_times, partition_bounds, time_values
from ml.logs.labels import unknown_labels
from ml.logs.quarantine import LABEL_MISSING, LABEL_UNKNOWN, TIME_FAR, TIME_MISSING, TIME_UNPARSABLE, WEIGHT

# Codes of `ValidatedRows.fault`; 0 is a good row.
FAULTS = ("", TIME_MISSING, TIME_UNPARSABLE, TIME_FAR, LABEL_MISSING, LABEL_UNKNOWN, WEIGHT)
UNPLACED = -1
BEFORE, AFTER = -2, np.iinfo(np.int32).max  # in place of the index of a day: before the log's first day, after its last


@dataclass(frozen=True)
class ValidatedRows:
    """The result of validating N typed rows.

    Attributes:
        times: Event times, int64 [N], microseconds since 1970 UTC; 0 in a log without a clock.
        days: Index of the log's day that each row belongs to, int32 [N]; BEFORE or AFTER for a row outside the log's days, and
            UNPLACED without a readable time. For a bad row, it is the day in whose quarantine the row goes.
        fault: Code in `FAULTS`, int8 [N].
    """

    times: NDArray[np.int64]
    days: NDArray[np.int32]
    fault: NDArray[np.int8]

    @property
    def outside(self) -> NDArray[np.bool_]:
        """Rows outside the log's days, bool [N]. They are neither good nor bad: their labels are not validated."""
        return is_outside(self.days)


def is_outside(days: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Which of these days are BEFORE or AFTER."""
    return (days == BEFORE) | (days == AFTER)


def place_file(log: LogSpec, file_day: int | None) -> int:
    """Returns the day of lines that only the path of their file places: the first without a dated path, or BEFORE or AFTER."""
    last = len(partition_bounds(log)) - 2
    return BEFORE if (file_day or 0) < 0 else AFTER if (file_day or 0) > last else file_day or 0


def validate_rows(log: LogSpec, table: pa.Table, file_day: int | None) -> ValidatedRows:
    """Validates the rows of one file.

    Args:
        log: The log, with its clock, days and label column.
        table: Typed rows with the source's columns, [N].
        file_day: Index of the day in a dated path; it may be outside the log's days.
    """
    count = table.num_rows
    fault, times, days = np.zeros(count, np.int8), np.zeros(count, np.int64), np.full(count, UNPLACED, np.int32)
    if log.time.columns:
        bounds = partition_bounds(log)
        values = time_values(table, log.time)
        times, known = event_times(values, log.time)
        missing = pc.is_null(values).to_numpy()
        found = days_of(times, bounds)
        found = np.where(found < 0, BEFORE, np.where(found > len(bounds) - 2, AFTER, found))
        if file_day is not None:
            far = _far(log, times, file_day)
            fault[far], found[far] = FAULTS.index(TIME_FAR), place_file(log, file_day)
        fault[~known] = FAULTS.index(TIME_UNPARSABLE)
        fault[missing] = FAULTS.index(TIME_MISSING)
        days = np.where(known, found, UNPLACED).astype(np.int32)
    good = (fault == 0) & ~is_outside(days)
    for reason, rows in (*_label_faults(log, table), *_weight_faults(log, table)):
        fault[rows & good] = FAULTS.index(reason)
    return ValidatedRows(times, days, fault)


def _far(log: LogSpec, times: NDArray[np.int64], file_day: int) -> NDArray[np.bool_]:
    """Times further from the day of their file than `spill_days`, bool [N]."""
    day, spill = log.partitions.start + timedelta(days=file_day), timedelta(days=log.source.spill_days)
    return (times < midnight(day - spill, log.zone)) | (times >= midnight(day + spill + timedelta(days=1), log.zone))


def _label_faults(log: LogSpec, table: pa.Table) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    for known in log.label_columns:
        label = table.column(known.column)
        yield LABEL_MISSING, pc.is_null(label).to_numpy()
        yield LABEL_UNKNOWN, unknown_labels(label, known)


def _weight_faults(log: LogSpec, table: pa.Table) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    if log.weight is not None:
        weight = table.column(log.weight).cast(pa.float64(), safe=False).fill_null(np.nan).to_numpy()
        yield WEIGHT, ~(np.isfinite(weight) & (weight >= 0))
