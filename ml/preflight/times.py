"""Checks the event times of a log against its partitions, and finds the unit or the time zone that would fit."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ml.catalog.log_spec import LogSpec
from ml.catalog.reading import Time
from ml.catalog.spec import Band
from ml.days import MICROSECONDS_PER_HOUR, midnight
from ml.logs.clock import days_of, event_times, partition_bounds, time_values
from ml.logs.quarantine import excerpt
from ml.logs.sources import file_day
from ml.preflight.finding import Finding, exceeds
from ml.preflight.sample import Sample

UNITS = ("s", "ms", "us", "ns")
DAY = 24 * MICROSECONDS_PER_HOUR
Times = NDArray[np.int64]


def check_times(log: LogSpec, sample: Sample, band: Band) -> list[Finding]:
    """Checks which times the sampled rows have, and whether they are on the log's days.

    Args:
        log: The log. Without a time column there is nothing to check.
        sample: Of its files.
        band: Allowed share of malformed lines.
    """
    if not log.time.columns or not sample.table.num_rows:
        return []
    values = time_values(sample.table, log.time)
    times, known = event_times(values, log.time)
    found = _unreadable(log, values, known, band)
    if not known.any():
        return found
    if log.source.dated:
        return found + _dated(log, sample, band)
    return found + _undated(log, sample, times[known])


def _unreadable(log: LogSpec, values: pa.ChunkedArray, known: NDArray[np.bool_], band: Band) -> list[Finding]:
    count = int((~known).sum())
    if not (count and (count == len(known) or exceeds(count, len(known), band))):
        return []
    examples = [value for value in values.filter(pa.array(~known)).slice(0, 2000).unique().to_pylist() if value is not None][:3]
    what = f"such as {', '.join(map(excerpt, examples))}" if examples else "all missing"
    reading = log.time.format or log.time.unit
    found = f"{count:,} of {len(known):,} sampled times of {log.time.column!r} cannot be read as {reading}, {what}"
    digits = [float(value) for value in examples if isinstance(value, str) and value.replace(".", "", 1).lstrip("-").isdigit()]
    if digits and (fitting := _fitting_unit(log, np.array(digits))):
        kind = "int" if all(float(value).is_integer() for value in digits) else "float"
        return [Finding("error", "time.unit", found, f"set `unit: {fitting}`, and declare `{log.time.column}: {kind}`")]
    change = f"set time.column to a column of {'ISO 8601 times' if log.time.unit == 'iso8601' else 'numbers'}"
    if log.time.format:
        change = "set `time.format` to the strptime format of these texts"
    elif examples and not log.time.is_text:
        change += ", or `time.format` to the strptime format of these texts"
    key = "time.format" if log.time.format else "time.unit"
    return [Finding("error", "time.column" if not examples else key, found, change)]


def _range(times: Times, zone: ZoneInfo) -> str:
    low, high = (_moment(int(t), zone) for t in (times.min(), times.max()))
    return f"from {low} to {high}"


def _moment(time: int, zone: ZoneInfo) -> str:
    try:
        return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time)).astimezone(zone).strftime("%Y-%m-%d %H:%M")
    except (OverflowError, ValueError):
        return f"year {1970 + round(time / (365.2425 * DAY))}"


def _days(log: LogSpec) -> str:
    return f"partitions run from {log.partitions.start} to {log.partitions.end or 'now'}"


def _inside(log: LogSpec, times: Times) -> NDArray[np.bool_]:
    bounds = partition_bounds(log)
    days = days_of(times, bounds)
    return (days >= 0) & (days < len(bounds) - 1)


def _fitting_unit(log: LogSpec, values: NDArray[np.float64]) -> str | None:
    """The unit by which most of some numbers are on the log's days."""
    for unit in UNITS:
        times, known = event_times(pa.chunked_array([pa.array(values)]), Time(column="t", unit=unit))
        if known.any() and _inside(log, times[known]).mean() > 0.5 and (log.partitions.end or times.max() < _now()):
            return unit
    return None


def _now() -> int:
    return int(datetime.now(UTC).timestamp() * 1e6) + DAY


def _explain(log: LogSpec, sample: Sample, times: Times) -> tuple[str, str]:
    """The key to change for times that are on none of the log's days, and the change."""
    column = log.time.column or ""
    values = time_values(sample.table, log.time)
    values = values.filter(pa.array(event_times(values, log.time)[1]))
    if not log.time.is_text:
        numbers = values.cast(pa.float64(), safe=False).to_numpy()
        if unit := _fitting_unit(log, numbers):
            return "time.unit", f"set `unit: {unit}`"
    for other, kind in sample.source.columns.items():
        if other != column and kind in ("int", "float"):
            numbers = sample.table[other].drop_null().cast(pa.float64(), safe=False).to_numpy()
            if len(numbers) and (unit := _fitting_unit(log, numbers)):
                return "time.column", f"set `time: {{column: {other}, unit: {unit}}}`"
    low, high = (_moment(int(t), log.zone)[:10] for t in (times.min(), times.max()))
    if not low.startswith("year") and not high.startswith("year") and low > "1990":
        return "partitions", f"set `partitions: {{start: {low}, end: {high}}}`, or correct time.unit or time.column"
    for unit in () if log.time.is_text else UNITS:
        other = event_times(values, log.time.model_copy(update={"unit": unit}))[0]
        ends = [_moment(int(t), log.zone)[:10] for t in (other.min(), other.max())]
        if not any(end.startswith("year") for end in ends) and "1990" < ends[0] <= ends[1] < "2100":
            return (
                "time.unit",
                f"set `unit: {unit}`, by which they run from {ends[0]} to {ends[1]}, and `partitions` to these days",
            )
    return "time.column", "set time.column to the column of event times"


def _undated(log: LogSpec, sample: Sample, times: Times) -> list[Finding]:
    bounds = partition_bounds(log)
    start, end = int(bounds[0]), int(bounds[-1]) if log.partitions.end else max(_now(), int(bounds[0]) + DAY)
    # A few rows can have any time; what most of them have counts.
    low, high = (int(t) for t in np.quantile(times, [0.01, 0.99]))
    inside = (times >= start) & (times < end)
    span = f"the sampled times run {_range(np.array([low, high]), log.zone)}, and {_days(log)}"
    if inside.mean() < 0.001:
        if low < start and high >= end:  # a stretch that is shorter than the distance between two pieces of the sample
            return []
        key, change = _explain(log, sample, times)
        unseen = key == "partitions" and high < start and not sample.reaches_end
        return [Finding("warning" if unseen else "error", key, span, change)]
    shifted = (low < start - DAY and high < end - DAY) or (low >= start + DAY and high >= end + DAY)
    if shifted and log.partitions.end and inside.mean() < 0.5:
        return [Finding("warning", "partitions", span, "set partitions to days of the log")]
    first, last = int(times[inside].min()), int(times[inside].max())
    found: list[Finding] = []
    if (
        low >= start
        and first >= start + DAY
        and (sample.complete or _in_order(log, sample) or first - start > (high - low) / 4)
    ):
        found.append(_days_before(log, _moment(first, log.zone)[:10]))
    ended = log.partitions.end and end < _now()
    if ended and high < end and last < end - DAY and sample.reaches_end and (sample.complete or _in_order(log, sample)):
        found.append(_days_after(log, _moment(last, log.zone)[:10]))
    return found


def _days_before(log: LogSpec, day: str) -> Finding:
    found = f"the first rows are of {day}, so the days from {log.partitions.start} on have none"
    return Finding("warning", "partitions.start", found, f"set `start: {day}`")


def _days_after(log: LogSpec, day: str) -> Finding:
    found = f"the last rows are of {day}, so the days up to {log.partitions.end} have none"
    return Finding("warning", "partitions.end", found, f"set `end: {day}`")


def _in_order(log: LogSpec, sample: Sample) -> bool:
    """Whether the pieces of the sample follow each other in time."""
    least = [event_times(time_values(c.table, log.time), log.time)[0].min() for c in sample.chunks if c.table.num_rows]
    return all(a <= b for a, b in pairwise(least))


def _dated(log: LogSpec, sample: Sample, band: Band) -> list[Finding]:
    """Rows should be on the days in their files' paths."""
    zone = log.zone
    gaps: list[Times] = []  # microseconds from a row to its file's day; 0 on it
    total: list[Times] = []
    for chunk in sample.chunks:
        day = chunk.file.day
        if day is None or not chunk.table.num_rows:
            continue
        times, known = event_times(time_values(chunk.table, log.time), log.time)
        begin, after = (midnight(day + timedelta(days=n), zone) for n in (-log.source.spill_days, 1 + log.source.spill_days))
        times = times[known]
        gaps.append(np.where(times < begin, times - begin, np.where(times >= after, times - after + 1, 0)))
        total.append(times)
    if not total:
        return []
    far, times = np.concatenate(gaps), np.concatenate(total)
    count = int((far != 0).sum())
    if not (count == len(far) or exceeds(count, len(far), band)):
        return []
    files = f"{count:,} of {len(far):,} sampled rows are not on the day in their file's path"
    found = f"{files}: their times run {_range(times[far != 0], zone)}, and the files are of {_file_days(log, sample)}"
    if np.abs(far).max() < 15 * MICROSECONDS_PER_HOUR:
        hours = -(-int(np.abs(far).max()) // MICROSECONDS_PER_HOUR)
        change = f"set the time zone of the log (times are up to {hours} h off), or `spill_days: 1` in source"
        return [Finding("error" if band.severity == "error" else "warning", "time.timezone", found, change)]
    key, change = _explain(log, sample, times)
    if key == "partitions":
        key, change = "source.files", "correct the order of year, month and day in the path, or set spill_days"
    return [Finding("error", key, found, change)]


def _file_days(log: LogSpec, sample: Sample) -> str:
    days = [file.day for file in sample.files if file.day]
    return f"{min(days)} to {max(days)}" if days else "no day"


def check_file_days(log: LogSpec, sample: Sample) -> list[Finding]:
    """Checks that some dated file is of one of the log's days, and that the days before and after all files are not skipped."""
    if not log.source.dated:
        return []
    count = len(partition_bounds(log)) - 1
    inside = [n for file in sample.files if (n := file_day(log, file)) is not None and 0 <= n < count]
    today = (datetime.now(log.zone).date() - log.partitions.start).days
    if inside and (log.partitions.end or min(inside) <= today):
        return _skipped_days(log, min(inside), max(inside))
    found = f"the files are of {_file_days(log, sample)}, and {_days(log)}"
    return [Finding("error", "partitions", found, "set partitions to days of the files, or correct the path in source.files")]


def _skipped_days(log: LogSpec, first: int, last: int) -> list[Finding]:
    """Days before the first file and after the last one, if a day without a file is no error."""
    start, end = log.partitions.start, log.partitions.end
    if log.partitions.missing_days != "skip":
        return []
    found = [_days_before(log, str(start + timedelta(days=first)))] if first > 0 else []
    if end and start + timedelta(days=last) < end < datetime.now(log.zone).date():
        found.append(_days_after(log, str(start + timedelta(days=last))))
    return found
