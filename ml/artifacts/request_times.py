"""Event times of rows that a caller sends: `event_time` in microseconds, or the log's own time column in its unit."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from ml.catalog.reading import Time
from ml.features.columns import plain
from ml.logs.clock import event_times
from ml.schema import EVENT_TIME

_YEAR_1990, _YEAR_2100 = 631_152_000, 4_102_444_800  # seconds since 1970-01-01 UTC
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


def to_event_time(column: pa.Array, clock: Time) -> pa.Array:
    """Converts the log's time column [N], in its declared type, as reading the log does.

    Returns:
        Microseconds since 1970-01-01 UTC, int64 [N]; null where a value is missing or is not a time.
    """
    times, known = event_times(pa.chunked_array([plain(column)]), clock)
    return pa.array(times, mask=~known)


def check_event_time(times: pa.Array) -> None:
    """Checks that event times, int64 [N], are in microseconds.

    The ranges of the years 1990 to 2100 in seconds, milliseconds, microseconds and nanoseconds do not overlap, so times in one
    of the other ranges have that unit.

    Raises:
        TypeError: All times are of these years if they are read in another unit.
    """
    ends = pc.call_function("min_max", [times])
    low, high = ends["min"].as_py(), ends["max"].as_py()
    if low is None:
        return
    for unit, per in _PER_SECOND.items():
        if _YEAR_1990 * per <= low and high < _YEAR_2100 * per and unit != "us":
            raise TypeError(
                f"column {EVENT_TIME!r}: expected microseconds since 1970-01-01 UTC, found {low}, which is a time in {unit!r}; "
                "send microseconds or timestamps"
            )
