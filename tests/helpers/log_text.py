"""A day of a log of the catalog as text, read from its files line by line without the code that is tested."""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from ml.catalog.spec import DatasetSpec

Row = dict[str, Any]
MICROS = {"s": 1_000_000, "ms": 1_000}


def bounds(spec: DatasetSpec, day: str) -> tuple[int, int]:
    """Times at which a day begins and ends, in microseconds."""
    first, zone = date.fromisoformat(day), ZoneInfo(spec.time.timezone)
    begin, end = (datetime(d.year, d.month, d.day, tzinfo=zone).timestamp() * 1e6 for d in (first, first + timedelta(days=1)))
    return int(begin), int(end)


def _lines(spec: DatasetSpec, folder: Path, day: str) -> Iterator[str]:
    """Lines of the log without headers, in the order of the files. Bytes that are not UTF-8 become replacement characters."""
    files = date.fromisoformat(day).strftime(spec.source.files)
    if files.endswith(".zip"):
        with zipfile.ZipFile(folder / files) as archive:
            for name in sorted(archive.namelist()):
                if Path(name).match(spec.source.members):
                    yield from archive.read(name).decode().splitlines()[spec.source.header :]
        return
    data = (folder / files).read_bytes()
    text = (gzip.decompress(data) if files.endswith(".gz") else data).decode(errors="replace")
    yield from text.splitlines()[spec.source.header :]


def rows_between(spec: DatasetSpec, folder: Path, day: str, begin: int, end: int) -> list[Row]:
    """Rows with a time in [begin, end) in time order, as text, with `event_time` in microseconds (int)."""
    names, separator = list(spec.source.columns), spec.source.delimiter
    at, scale = names.index(spec.time.column or ""), MICROS[spec.time.unit]
    rows = []
    for line in _lines(spec, folder, day):
        fields = line.split(separator)
        if len(fields) == len(names) and fields[at].isdigit() and begin <= (time := int(fields[at]) * scale) < end:
            rows.append(dict(zip(names, fields, strict=True)) | {"event_time": time})
    return sorted((row for row in rows if "\ufffd" not in "".join(map(str, row.values()))), key=lambda row: row["event_time"])


def rows_by_position(spec: DatasetSpec, folder: Path, day: str) -> list[Row]:
    """Rows of a day of a log without times, as text."""
    lines, days = list(_lines(spec, folder, day)), spec.days()
    size, longer = divmod(len(lines), len(days))
    starts = [n * size + min(n, longer) for n in range(len(days) + 1)]
    n = days.index(day)
    names, separator = list(spec.source.columns), spec.source.delimiter
    return [dict(zip(names, line.split(separator), strict=True)) for line in lines[starts[n] : starts[n + 1]]]


def rows_of_day(spec: DatasetSpec, folder: Path, day: str) -> list[Row]:
    """Rows of a day as text, with the columns of the side tables."""
    rows = rows_by_position(spec, folder, day) if spec.time.by_position else rows_between(spec, folder, day, *bounds(spec, day))
    return with_side_columns(spec, rows, folder)


def with_side_columns(spec: DatasetSpec, rows: list[Row], folder: Path) -> list[Row]:
    """The rows with the columns of the side tables, as text."""
    for side in spec.join:
        source = side.source
        names, *lines = [
            line.split(source.delimiter) for line in (folder / source.files).read_text(source.encoding).splitlines()
        ]
        if source.header:
            names = [source.rename.get(name, name) for name in names]
        else:
            names, lines = list(source.columns), [names, *lines]
        table = [dict(zip(names, line, strict=True)) for line in lines]
        found = {row[side.table_key]: row for row in table}
        rows = [row | {name: found.get(row[side.log_key], {}).get(name, "") for name in side.columns} for row in rows]
    return rows
