"""Writes event times as the columns of a log that have the time: the inverse of reading them in `ml.logs.clock`."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute creates its functions at import, so type checkers do not see them)

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ml.catalog.reading import Time
from ml.catalog.time_format import TIME_OF_DAY, split_format
from ml.days import MICROSECONDS_PER_SECOND
from ml.logs.clock import from_event_times

ISO_FORMAT = "%Y-%m-%dT%H:%M:%S.%f%z"
_QUARTER_SECONDS = 900


def time_columns(times: NDArray[np.int64], clock: Time) -> dict[str, pa.Array]:
    """Writes event times as the columns that have the time.

    Args:
        times: Microseconds since 1970 UTC, int64 [N].
        clock: Unit or format of the columns, and their time zone.

    Returns:
        The columns by name, [N]: whole units as int64, rounded down; or texts, in UTC if they have an offset. Without one,
        the two hours in which clocks go back have the same texts, which are read as the first hour.

    Example:
        >>> clock = Time(column="day", clock="hour", format="%d.%m.%Y %H:%M", timezone="Europe/Berlin")
        >>> {name: texts.to_pylist() for name, texts in time_columns(np.array([1_767_225_600_000_000]), clock).items()}
        {'day': ['01.01.2026'], 'hour': ['01:00']}
    """
    if clock.column is None:
        return {}
    if not clock.is_text:
        return {clock.column: pa.array(from_event_times(times, clock))}
    parts = split_format(clock.format or ISO_FORMAT)
    if "%z" not in parts:
        times = times + _offsets(times, ZoneInfo(clock.timezone))
    if clock.clock is None:
        return {clock.column: _texts(times, parts)}
    first = next((place for place, part in enumerate(parts) if part in TIME_OF_DAY), len(parts))
    blank = max((place for place, part in enumerate(parts[:first]) if part.isspace()), default=first)
    return {clock.column: _texts(times, parts[:blank]), clock.clock: _texts(times, parts[blank + 1 :])}


def _texts(wall: NDArray[np.int64], parts: Sequence[str]) -> pa.Array:
    """Writes wall clocks [N] by the parts of a format."""
    seconds, fraction = np.divmod(wall, MICROSECONDS_PER_SECOND)
    stamps, pieces = pa.array(seconds).cast(pa.timestamp("s")), [""]
    for part in parts:
        pieces = [*pieces, "%f", ""] if part == "%f" else [*pieces[:-1], pieces[-1] + ("+0000" if part == "%z" else part)]
    digits = pc.utf8_lpad(pa.array(fraction).cast(pa.string()), 6, "0")
    texts = [digits if piece == "%f" else pc.strftime(stamps, format=piece) for piece in pieces if piece]
    return pc.binary_join_element_wise(*texts, "")


def _offsets(times: NDArray[np.int64], zone: ZoneInfo) -> NDArray[np.int64]:
    """How far the wall clocks at times [N] are ahead of UTC, in microseconds."""
    quarters, where = np.unique(times // (_QUARTER_SECONDS * MICROSECONDS_PER_SECOND), return_inverse=True)
    ahead = [datetime.fromtimestamp(quarter * _QUARTER_SECONDS, zone).utcoffset() for quarter in quarters.tolist()]
    return np.array([(of or timedelta(0)) // timedelta(microseconds=1) for of in ahead], np.int64)[where]
