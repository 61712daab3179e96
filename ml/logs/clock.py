"""Converts raw time values to microseconds since 1970 UTC, and a log's days to ranges of them.

`ml.logs.validate_rows` decides what happens to rows outside the log's days.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute creates its functions at import, so type checkers do not see them)

from __future__ import annotations

from datetime import date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ml.catalog.log_spec import LogSpec
from ml.catalog.reading import Time
from ml.days import MICROSECONDS_PER_MINUTE, midnight

# A live log has no last day: its days extend this far ahead.
LIVE_DAYS = 50 * 366
FAR = 2**62
_PER_UNIT = {"s": (1_000_000, 1), "ms": (1_000, 1), "us": (1, 1), "ns": (1, 1_000)}
_QUARTER, _QUARTERS = 900_000_000, 1900 * 365 * 96  # clocks before the year 70 keep the offset of that year
_ISO = (
    r"^(?P<y>\d{4})-(?P<mo>\d{2})-(?P<d>\d{2})(?:[T ](?P<h>\d{2}):(?P<mi>\d{2})(?::(?P<s>\d{2})(?:[.,](?P<f>\d{1,9}))?)?"
    r" ?(?P<zone>[Zz]|(?P<sign>[+-])(?P<oh>\d{2}):?(?P<om>\d{2})?)?)?$"
)


@lru_cache(maxsize=16)
def _bounds(start: date, days: int, zone: str) -> NDArray[np.int64]:
    info = ZoneInfo(zone)
    return np.array([midnight(start + timedelta(days=i), info) for i in range(days + 1)], np.int64)


def partition_bounds(log: LogSpec) -> NDArray[np.int64]:
    """The instant at which each day of a log begins, and the end of the last: int64 [days + 1], microseconds since 1970 UTC."""
    end = log.partitions.end
    days = (end - log.partitions.start).days + 1 if end else LIVE_DAYS
    return _bounds(log.partitions.start, days, log.time.timezone)


def day_index(log: LogSpec, day: str) -> int:
    """Index of a partition key among the log's days, from 0.

    Raises:
        ValueError: The key is not a day of the log.
    """
    try:
        index = (date.fromisoformat(day) - log.partitions.start).days
    except ValueError:
        index = -1
    if not 0 <= index < len(partition_bounds(log)) - 1:
        raise ValueError(
            f"{log.dataset}: {day!r} is not a day of the log; its days run from {log.partitions.start} to "
            f"{log.partitions.end or 'now'} (partitions in the catalog entry)"
        )
    return index


def day_key(log: LogSpec, index: int) -> str:
    """The partition key (`YYYY-MM-DD`) of the log's day with this index."""
    return (log.partitions.start + timedelta(days=index)).isoformat()


def days_of(times: NDArray[np.int64], bounds: NDArray[np.int64]) -> NDArray[np.int64]:
    """Index of the day of each time, int64 [N]; -1 before the first day, len(bounds) - 1 after the last."""
    return np.searchsorted(bounds, times, side="right") - 1


def event_times(column: pa.ChunkedArray, clock: Time) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Converts a time column.

    Args:
        column: Raw values [N]; null is not a time.
        clock: Their unit and time zone.

    Returns:
        Microseconds since 1970 UTC, int64 [N], and whether each value is a time, bool [N]. Times that do not fit 64 bits of
        microseconds become +-2^62, which is outside the days of any log.
    """
    if clock.unit == "iso8601":
        return _iso(column, ZoneInfo(clock.timezone))
    times, per = _PER_UNIT[clock.unit]
    known = pc.is_valid(column).to_numpy(zero_copy_only=False)
    if pa.types.is_floating(column.type):
        values = pc.fill_null(column, 0.0).to_numpy()
        known &= np.isfinite(values)
        scaled = np.rint(np.where(known, values, 0.0) * times / per)
        return np.clip(scaled, -FAR, FAR).astype(np.int64), known
    whole = pc.fill_null(column, 0).to_numpy()
    limit = FAR // times
    # (|-2^63| does not fit 64 bits, hence the two comparisons)
    scaled = np.select([whole <= -limit, whole >= limit], [-FAR, FAR], whole * times) if times > 1 else whole
    return scaled // per, known


def _iso(column: pa.ChunkedArray, zone: ZoneInfo) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Reads `2026-01-31T23:59:59.5+02:00` and `... Z`; without an offset, in the log's zone; a date alone is its midnight."""
    found = pc.extract_regex(column.combine_chunks(), _ISO)
    known = _mask(pc.is_valid(found))
    year, month, day, hour, minute, second = (_integers(found, name) for name in ("y", "mo", "d", "h", "mi", "s"))
    months = ((year - 1970) * 12 + month - 1).astype("datetime64[M]")
    days = months.astype("datetime64[D]") + (day - 1)
    known &= (month >= 1) & (month <= 12) & (day >= 1) & (days.astype("datetime64[M]") == months)
    known &= (hour < 24) & (minute < 60) & (second < 60)
    known &= (_integers(found, "oh") <= 18) & (_integers(found, "om") < 60)  # no zone is further from UTC
    fraction = pc.utf8_slice_codeunits(pc.utf8_rpad(pc.struct_field(found, "f"), 6, "0"), 0, 6)
    wall = ((days.astype(np.int64) * 24 + hour) * 60 + minute) * 60 + second
    wall = wall * 1_000_000 + pc.fill_null(pc.cast(fraction, pa.int64()), 0).to_numpy(zero_copy_only=False)
    sign = np.where(_mask(pc.equal(pc.struct_field(found, "sign"), "-")), -1, 1)
    offset = sign * (_integers(found, "oh") * 60 + _integers(found, "om")) * MICROSECONDS_PER_MINUTE
    naive = known & _mask(pc.equal(pc.struct_field(found, "zone"), ""))
    offset[naive] = _offsets(wall[naive], zone)
    return np.where(known, wall - offset, 0), known


def _mask(values: pa.Array) -> NDArray[np.bool_]:
    return pc.fill_null(values, False).to_numpy(zero_copy_only=False)


def _integers(found: pa.StructArray, name: str) -> NDArray[np.int64]:
    texts = pc.struct_field(found, name)
    return pc.fill_null(pc.cast(pc.if_else(pc.equal(texts, ""), "0", texts), pa.int64()), 0).to_numpy(zero_copy_only=False)


def _offsets(wall: NDArray[np.int64], zone: ZoneInfo) -> NDArray[np.int64]:
    """How far wall clocks [N] are ahead of UTC, in microseconds. Every zone changes its clocks on a quarter of an hour."""
    quarters, where = np.unique(wall // _QUARTER, return_inverse=True)
    first = datetime(1970, 1, 1, tzinfo=zone)
    ahead = [(first + timedelta(minutes=15 * q)).utcoffset() for q in np.clip(quarters, -_QUARTERS, _QUARTERS).tolist()]
    return np.array([(a or timedelta(0)) // timedelta(microseconds=1) for a in ahead], np.int64)[where]


def position_parts(total: int, days: int) -> NDArray[np.int64]:
    """Divides `total` lines into equal parts, one for each day.

    As the DLRM reference code divides Criteo's log (data_utils.py): `divmod(total, days)`, the first `extras` parts one longer.

    Returns:
        The line at which each part begins, and the end of the last: int64 [days + 1].
    """
    size, extras = divmod(total, days)
    lengths = np.full(days, size, np.int64)
    lengths[:extras] += 1
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])


def position_times(lines: NDArray[np.int64], parts: NDArray[np.int64], bounds: NDArray[np.int64]) -> NDArray[np.int64]:
    """Event times of lines [N], int64 [N]: spread evenly, and in order, over the day of their part."""
    day = np.searchsorted(parts, lines, side="right") - 1
    count, begin = parts[day + 1] - parts[day], bounds[day]
    # Quotient and remainder separately: line number times microseconds overflows 64 bits in a day of a hundred million lines.
    step, rest = np.divmod(bounds[day + 1] - begin, count)
    place = lines - parts[day]
    return begin + place * step + place * rest // count
