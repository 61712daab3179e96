"""Writes the rows of a finished day of a stream into the landing folder, so that the daily models read them too.

A file is written if the pattern of the log's files names a day, the folder has no file of the day, and reading the file gives
the rows back. Otherwise the caller gets the reason, and the day must be delivered separately.
"""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
from upath import UPath

from ml.catalog.log_spec import LogSpec
from ml.lake import is_local
from ml.logs.block_ranges import BlockRange
from ml.logs.clock import day_index
from ml.logs.ingest_task import raw_schema
from ml.logs.packed import suffix_of
from ml.logs.sources import NoLogs, file_day, find_files
from ml.logs.validated_blocks import read_validated_blocks
from ml.parquet import read_parquet


class CannotLand(ValueError):
    """The rows of a day cannot be written as a file of the log."""


def land_day(log: LogSpec, day: str, rows: list[UPath], landing: UPath, scratch: UPath) -> UPath:
    """Write the rows of a day as a file of the log.

    Args:
        log: The log.
        day: `YYYY-MM-DD`.
        rows: Parquet files of `raw_schema(log)`, in order. One at a time is in memory.
        landing: The landing folder.
        scratch: A folder on this machine, in which the file is written and read back first.

    Returns:
        The file.

    Raises:
        CannotLand: The pattern does not name a day, the day has files already, or the format cannot hold the rows.
    """
    source = log.source
    if log.simulation is not None:
        raise CannotLand("the log is simulated")
    if log.joined_from:
        raise CannotLand("its rows are joined from two logs")
    if not source.dated or any(sign in source.files for sign in "?["):
        raise CannotLand(f"source.files {source.files!r} does not give the name of a day's file")
    if _has_day(log, day, landing):
        raise CannotLand(f"{landing} has files of the day")
    name = date.fromisoformat(day).strftime(source.files.replace("**/", "")).replace("*", "stream")
    if suffix_of(name) or name.lower().endswith(".zip"):
        raise CannotLand(f"{name} would be a compressed file")
    made = Path(scratch.path) / Path(name).name
    made.parent.mkdir(parents=True, exist_ok=True)
    try:
        _write(log, made, rows)
        if not _same(_read_back(log, made), (read_parquet(path).drop_columns("event_time") for path in rows)):
            raise CannotLand(f"a {source.format} file cannot store all values")
        target = landing / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if is_local(target):
            beside = Path(target.path).with_name(f".{target.name}.part")
            beside.write_bytes(made.read_bytes())
            beside.replace(target.path)
        else:
            target.fs.put(str(made), target.path)
    finally:
        made.unlink(missing_ok=True)
    return target


def _has_day(log: LogSpec, day: str, landing: UPath) -> bool:
    try:
        return any(file_day(log, file) == day_index(log, day) for file in find_files(log.source, landing))
    except NoLogs:
        return False


def _write(log: LogSpec, path: Path, rows: list[UPath]) -> None:
    source, schema = log.source, pa.schema(list(raw_schema(log))[1:])
    tables = (read_parquet(part).select(schema.names) for part in rows)
    if source.format == "parquet" and not source.rename:
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for table in tables:
                writer.write_table(table)
    elif source.format in ("csv", "tsv") and not source.rename and source.encoding == "utf-8" and "" in source.null_tokens:
        style = "needed" if source.quoted else "none"
        options = csv.WriteOptions(include_header=False, delimiter=source.delimiter, quoting_style=style)
        try:
            with path.open("wb") as file:
                if source.header:
                    file.write(f"{source.delimiter.join(schema.names)}\n".encode())
                with csv.CSVWriter(file, schema, write_options=options) as writer:
                    for table in tables:
                        writer.write_table(table)
        except pa.ArrowInvalid as error:
            raise CannotLand(str(error)) from error
    else:
        raise CannotLand(f"files of this {source.format} log, with its names, encoding and null_tokens, cannot be written")


def _read_back(log: LogSpec, path: Path) -> Iterator[pa.Table]:
    source = log.source.model_copy(update={"files": glob.escape(path.name).replace("%", "%%")})
    for file in find_files(source, UPath(path.parent)):
        for block in read_validated_blocks(log.model_copy(update={"source": source}), BlockRange(file, 0)):
            yield block.table


def _same(ones: Iterable[pa.Table], others: Iterable[pa.Table]) -> bool:
    """Whether two streams of tables have the same rows."""
    left, right = iter(ones), iter(others)
    one, other = next(left, None), next(right, None)
    while one is not None and other is not None:
        count = min(len(one), len(other))
        if not one.slice(0, count).equals(other.slice(0, count).cast(one.schema)):
            return False
        one = one.slice(count) if count < len(one) else next(left, None)
        other = other.slice(count) if count < len(other) else next(right, None)
    return all(not len(rest) for rest in (one, other, *left, *right) if rest is not None)
