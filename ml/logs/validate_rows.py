"""What a typed row means: its event time, its day, whether its label can be used. Rows that fail go to quarantine.

Reading lines into typed rows is `ml.logs.text.parse`; where the rows of a day are written, `ml.logs.ingest`.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions at import, out of a type checker's sight)

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ml.catalog.log_spec import LogSpec
from ml.logs.clock import day_bounds, days_of, event_times
from ml.logs.quarantine import LABEL_MISSING, LABEL_UNKNOWN, TIME_MISSING, TIME_RANGE, TIME_UNPARSABLE

# Codes of `Examined.fault`; 0 is a good row.
FAULTS = ("", TIME_MISSING, TIME_UNPARSABLE, TIME_RANGE, LABEL_MISSING, LABEL_UNKNOWN)
UNPLACED = -1


@dataclass(frozen=True)
class Examined:
    """Of N typed rows. times: int64 [N], microseconds UTC, 0 where a log has no clock. day: int32 [N], index of the log's day
    that the row (or, of a bad one, its quarantined line) belongs to, UNPLACED where its time does not say. fault: int8 [N]."""

    times: NDArray[np.int64]
    day: NDArray[np.int32]
    fault: NDArray[np.int8]


def examine(log: LogSpec, table: pa.Table, file_day: int | None) -> Examined:
    """Look at N typed rows of one file; file_day: index (possibly outside the range) of a dated path's day."""
    count = table.num_rows
    fault, times, day = np.zeros(count, np.int8), np.zeros(count, np.int64), np.full(count, UNPLACED, np.int32)
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
        day = np.where(known, nearest, UNPLACED).astype(np.int32)
    good = fault == 0
    for reason, rows in _label_faults(log, table).items():
        fault[rows & good] = FAULTS.index(reason)
    return Examined(times, day, fault)


def _label_faults(log: LogSpec, table: pa.Table) -> dict[str, NDArray[np.bool_]]:
    if log.label is None:
        return {}
    label = table.column(log.label.column)
    missing = pc.is_null(label).to_numpy()
    found = {LABEL_MISSING: missing}
    if log.label.binary and not pa.types.is_boolean(label.type):
        found[LABEL_UNKNOWN] = ~missing & ~pc.is_in(label, pa.array([0, 1], label.type)).to_numpy()
    return found
