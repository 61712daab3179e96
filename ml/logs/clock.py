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
from ml.catalog.time_format import ISO, MONTHS, compile_format
from ml.days import MICROSECONDS_PER_MINUTE, midnight

# A live log has no last day: its days extend this far ahead.
LIVE_DAYS = 50 * 366
FAR = 2**62
_PER_UNIT = {"s": (1_000_000, 1), "ms": (1_000, 1), "us": (1, 1), "ns": (1, 1_000)}
_QUARTER, _QUARTERS = 900_000_000, 1900 * 365 * 96  # clocks before the year 70 keep the offset of that year
_NUMBER = r"^[ \t]*-?([0-8]\d{18}|\d{1,18})(\.\d*)?[ \t]*$"  # fits 64 bits; nanoseconds have 19 digits


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


def time_values(table: pa.Table, clock: Time) -> pa.ChunkedArray:
    """Return the column that `event_times` reads, [N]: date and time of day as one text if they are two columns."""
    columns = [table.column(name) for name in clock.columns]
    return columns[0] if len(columns) == 1 else pc.binary_join_element_wise(*columns, " ")


def event_times(column: pa.ChunkedArray, clock: Time) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Converts a time column.

    Args:
        column: Raw values [N]; null is not a time.
        clock: Their unit or format, and their time zone.

    Returns:
        Microseconds since 1970 UTC, int64 [N], and whether each value is a time, bool [N]. Times that do not fit 64 bits of
        microseconds become +-2^62, which is outside the days of any log.
    """
    if clock.is_text:
        return _texts(column, compile_format(clock.format) if clock.format else ISO, ZoneInfo(clock.timezone))
    times, per = _PER_UNIT[clock.unit]
    if pa.types.is_string(column.type):
        column = _numbers(column)
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


def from_event_times(times: NDArray[np.int64], clock: Time) -> NDArray[np.int64]:
    """Converts event times to numbers of a time column, the inverse of `event_times`.

    Args:
        times: Microseconds since 1970 UTC, int64 [N].
        clock: The unit of the column, which is not of text.

    Returns:
        int64 [N], in whole units, rounded down.
    """
    scale, per = _PER_UNIT[clock.unit]
    return times * per // scale


def _numbers(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Numbers that are written as text: int64 if all are whole, else float64; null where a text is not a number."""
    is_number = pc.fill_null(pc.match_substring_regex(texts, _NUMBER), False)
    numbers = pc.utf8_trim(pc.if_else(is_number, texts, pa.scalar(None, pa.string())), " \t")
    whole = not pc.any(pc.match_substring(numbers, "."), min_count=0).as_py()
    return numbers.cast(pa.int64() if whole else pa.float64())


def _texts(column: pa.ChunkedArray, pattern: str, zone: ZoneInfo) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Reads texts by the groups of a pattern of `ml.catalog.time_format`; without an offset, in the log's zone."""
    found = pc.extract_regex(column.combine_chunks(), pattern)
    known = _mask(pc.is_valid(found))
    year, month, day = _date(found)
    hour, minute, second = (_integers(found, name) for name in ("h", "mi", "s"))
    if _has(found, "half"):
        hour = _integers(found, "h12")
        known &= (hour >= 1) & (hour <= 12)
        hour = hour % 12 + 12 * _mask(pc.equal(pc.utf8_lower(pc.struct_field(found, "half")), "p"))
    months = ((year - 1970) * 12 + month - 1).astype("datetime64[M]")
    days = months.astype("datetime64[D]") + (day - 1)
    in_month = (
        days.astype("datetime64[Y]") == months.astype("datetime64[Y]")
        if _has(found, "j")
        else days.astype("datetime64[M]") == months
    )
    known &= (month >= 1) & (month <= 12) & (day >= 1) & in_month
    known &= (hour < 24) & (minute < 60) & (second < 60)
    known &= (_integers(found, "oh") <= 18) & (_integers(found, "om") < 60)  # no zone is further from UTC
    wall = ((days.astype(np.int64) * 24 + hour) * 60 + minute) * 60 + second
    wall = wall * 1_000_000 + _fraction(found)
    if not _has(found, "zone"):
        return np.where(known, wall - _offsets(np.where(known, wall, 0), zone), 0), known
    sign = np.where(_mask(pc.equal(pc.struct_field(found, "sign"), "-")), -1, 1)
    offset = sign * (_integers(found, "oh") * 60 + _integers(found, "om")) * MICROSECONDS_PER_MINUTE
    naive = known & _mask(pc.equal(pc.struct_field(found, "zone"), ""))
    offset[naive] = _offsets(wall[naive], zone)
    return np.where(known, wall - offset, 0), known


def _date(found: pa.StructArray) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Year, month and day, int64 [N] each; the day of the year is a day of January. 0 is not a month or a day."""
    year = _integers(found, "y")
    if _has(found, "yy"):  # as POSIX reads it: 69 to 99 are of the 20th century
        year = _integers(found, "yy")
        year = year + np.where(year >= 69, 1900, 2000)
    if _has(found, "j"):
        return year, np.ones_like(year), _integers(found, "j")
    if _has(found, "name"):
        names = pc.utf8_lower(pc.struct_field(found, "name"))
        place = pc.index_in(pc.utf8_slice_codeunits(names, 0, 3), pa.array(list(MONTHS)))
        return year, pc.fill_null(place, -1).to_numpy(zero_copy_only=False).astype(np.int64) + 1, _integers(found, "d")
    return year, _integers(found, "mo"), _integers(found, "d")


def _fraction(found: pa.StructArray) -> NDArray[np.int64]:
    """Fraction of the second in microseconds, int64 [N]."""
    if not _has(found, "f"):
        return np.zeros(len(found), np.int64)
    digits = pc.utf8_slice_codeunits(pc.utf8_rpad(pc.struct_field(found, "f"), 6, "0"), 0, 6)
    return pc.fill_null(pc.cast(digits, pa.int64()), 0).to_numpy(zero_copy_only=False)


def _has(found: pa.StructArray, name: str) -> bool:
    return found.type.get_field_index(name) >= 0


def _mask(values: pa.Array) -> NDArray[np.bool_]:
    return pc.fill_null(values, False).to_numpy(zero_copy_only=False)


def _integers(found: pa.StructArray, name: str) -> NDArray[np.int64]:
    """The integers of a group, int64 [N]; 0 where it is empty, and if the pattern does not have it."""
    if not _has(found, name):
        return np.zeros(len(found), np.int64)
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
