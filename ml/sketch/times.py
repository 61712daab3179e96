"""Finds the column of the event time, its unit or format, and the days of the log."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa

from ml.catalog.reading import Time
from ml.catalog.time_format import ISO, compile_format
from ml.logs.clock import event_times, time_values
from ml.logs.formats import read_blocks
from ml.sketch.columns import Column, SampledLog
from ml.sketch.layout import FoundSource

SCANNED = 1 << 30  # bytes of files whose times are all read
_UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_DAYS = (
    *("%Y-%m-%d", "%Y/%m/%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%Y%m%d", "%d.%m.%y", "%m/%d/%y", "%d/%m/%y"),
    *("%d %b %Y", "%d-%b-%Y", "%b %d %Y", "%b %d, %Y", "%d %B %Y", "%B %d, %Y"),
)
_TIMES = ("%H:%M:%S", "%H:%M:%S.%f", "%H:%M", "%I:%M:%S %p", "%I:%M %p", "%H%M%S")
_FORMATS = (
    *(f"{day}{mark}{clock}{zone}" for day in _DAYS for mark in (" ", "T") for clock in _TIMES for zone in ("", "%z", " %z")),
    "%d/%b/%Y:%H:%M:%S %z",
    "[%d/%b/%Y:%H:%M:%S %z]",
    "%a %b %d %H:%M:%S %Y",
    "%a, %d %b %Y %H:%M:%S %z",
)
_NAMED = re.compile(r"(?i)(^|_)(event_?)?(time|timestamp|ts|date|datetime|at|when)($|_|:)|time(stamp)?$")
_ENOUGH = 0.99


def find_time(log: SampledLog) -> dict[str, Any] | None:
    """Find the keys of `time`, without its zone.

    Args:
        log: The sample.

    Returns:
        `column` and `unit`, or `column`, `format` and perhaps `clock`; None if no column has times.
    """
    found: list[tuple[bool, int, dict[str, Any]]] = []
    for column in log.columns:
        # A number in the name of a key, such as session_id, can look like a time.
        if column.nested or not column.values or re.search(r"(?i)(^|_)id$", column.name):
            continue
        if keys := _reading(column) or _with_clock(column, log.columns):
            found.append((bool(_NAMED.search(column.name)), column.distinct, {"column": column.name, **keys}))
    return max(found, key=lambda one: one[:2])[2] if found else None


def holds_times(column: Column) -> bool:
    """Whether the values of a column can be read as times or as dates."""
    if not column.values or column.nested:
        return False
    is_date = column.kind == "string" and _format_of(column.values[:2000], _DAYS) is not None
    return is_date or _reading(column) is not None


def _reading(column: Column) -> dict[str, Any] | None:
    if (numbers := _numbers(column)) is not None:
        first, last = datetime(1995, 1, 1, tzinfo=UTC).timestamp(), datetime.now(UTC).timestamp() + 366 * 86400
        for unit, factor in _UNITS.items():
            if _share(first * factor <= value <= last * factor for value in numbers) >= _ENOUGH:
                return {"unit": unit}
        if column.kind == "int" and _matches(list(map(str, column.values)), "%Y%m%d"):
            return {"format": "%Y%m%d"}
        return None
    if column.kind != "string":
        return None
    texts = column.values[:2000]
    if _share(re.match(ISO, text) for text in texts) >= _ENOUGH and not all(
        map(re.compile(r"\d{4}-\d{2}-\d{2}").fullmatch, texts)
    ):
        return {"unit": "iso8601"}
    format = _format_of(texts, _FORMATS)
    return {"format": format} if format else None


def _numbers(column: Column) -> Sequence[float] | None:
    """The values of a column of numbers, or of texts that are all numbers, as in JSON; None of another one."""
    if column.numeric:
        return column.values
    if column.kind != "string" or not all(map(re.compile(r"\d{9,19}(\.\d+)?").fullmatch, column.values)):
        return None
    return tuple(map(float, column.values))


def _with_clock(column: Column, columns: Sequence[Column]) -> dict[str, Any] | None:
    """A column of dates, with the column of the time of day if there is one."""
    if column.kind != "string":
        return None
    day = _format_of(column.values[:2000], _DAYS)
    if day is None:
        return None
    for other in columns:
        for clock in _TIMES[:-1] if other.kind == "string" and other.values and other is not column else ():
            if all(map(re.compile(r"[0-9:. apmAPM]+").fullmatch, other.values[:2000])) and _matches(
                [f"{column.values[0]} {value}" for value in other.values[:2000]], f"{day} {clock}"
            ):
                return {"format": f"{day} {clock}", "clock": other.name}
    return {"unit": "iso8601"} if day == "%Y-%m-%d" else {"format": day}


def _format_of(texts: Sequence[Any], formats: Sequence[str]) -> str | None:
    """The format of texts. If several fit, as 02/03/2026 is in February or in March, the one with the closest times."""
    spans = {format: span for format in formats if (span := _span(texts, format)) is not None}
    return min(spans, key=lambda format: spans[format]) if spans else None


def _matches(texts: Sequence[Any], format: str) -> bool:
    return _span(texts, format) is not None


def _span(texts: Sequence[Any], format: str) -> int | None:
    """Microseconds between the first and the last time; None if texts do not have the format: 13 is no month."""
    pattern = re.compile(compile_format(format))
    if not any(map(pattern.match, texts[:20])) or _share(pattern.match(text) for text in texts) < _ENOUGH:
        return None
    times, known = event_times(pa.chunked_array([pa.array(texts, pa.string())]), Time(column="any", format=format))
    return int(np.ptp(times[known])) if float(known.mean()) >= _ENOUGH else None


def _share(hits: Any) -> float:
    found = [bool(hit) for hit in hits]
    return sum(found) / max(len(found), 1)


def find_days(found: FoundSource, types: dict[str, str], time: Time, folder: Path) -> tuple[date, date, bool]:
    """Find the first and the last day of a log.

    Days with less than a hundredth of the rows of the busiest day are left out at both ends: they hold stray rows.

    Args:
        found: How the files are read.
        types: Name -> type of the columns.
        time: How times are read.
        folder: The folder of the logs.

    Returns:
        The first day, the last day, and whether all times were read; of large logs, only the first and the last file are.

    Raises:
        ValueError: No row has a time.
    """
    files = found.files(folder)
    if days := [file.day for file in files if file.day]:
        return min(days), max(days), True
    whole = sum(file.size for file in files) <= SCANNED
    source = found.source(types)
    if found.keys["format"] == "jsonl" or found.keys.get("header") or found.keys["format"] == "parquet":
        source = found.source({name: types[name] for name in time.columns})
    counts: Counter[date] = Counter()
    for file in files if whole else {files[0].name: files[0], files[-1].name: files[-1]}.values():
        for block in read_blocks(source, file, clock=time):
            counts.update(_days_of(block.table, time))
    if not counts:
        raise ValueError(f"{found.group.pattern}: no row has a time that can be read as {time.format or time.unit}")
    usual = sorted(day for day, count in counts.items() if count >= max(counts.values()) / 100)
    return usual[0], usual[-1], whole


def _days_of(table: pa.Table, time: Time) -> dict[date, int]:
    times, known = event_times(time_values(table, time), time)
    zone = ZoneInfo(time.timezone)
    quarters, rows = np.unique(times[known] // 900_000_000, return_counts=True)
    found: Counter[date] = Counter()
    for quarter, count in zip(quarters.tolist(), rows.tolist(), strict=True):
        instant = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(minutes=15 * quarter)
        found[instant.astimezone(zone).date()] += count
    return found
