"""Reads the files of a stream folder: rows that arrive continuously, rather than days that land.

The files are in the source format of the log, or Parquet with the columns of `raw_logs`. A file must be complete when it
appears, so a writer renames it into the folder.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from ml.catalog.log_spec import LogSpec
from ml.catalog.reading import Time
from ml.logs.block_ranges import BlockRange
from ml.logs.ingest_task import raw_schema
from ml.logs.sources import LogFile, find_files
from ml.logs.validated_blocks import ValidatedBlock, read_validated_blocks
from ml.schema import EVENT_TIME


class NoClock(ValueError):
    """The rows of a stream file have no event time."""


def is_incomplete(name: str) -> bool:
    """Whether a file of a stream folder is still being written: it begins with `.` or `_`, or ends with `.part`."""
    return name.startswith((".", "_")) or name.endswith(".part")


def arriving_files(folder: UPath) -> list[str]:
    """Lists the complete files of a stream folder in the order in which they are read; empty if it does not exist."""
    return sorted(path.name for path in folder.iterdir() if not is_incomplete(path.name)) if folder.exists() else []


def arriving_blocks(log: LogSpec, root: UPath, name: str) -> Iterator[ValidatedBlock]:
    """Reads and validates the blocks of a file of a stream folder.

    Args:
        log: The log whose rows arrive.
        root: The stream folder.
        name: Name of the file.

    Raises:
        WrongFile: The file lacks a column.
        NoClock: The log has no clock, and the file has no event times.
        NoLogs: The file, or a member in it, is not there.
    """
    how, files = _reading(log, root, name)
    columns = raw_schema(log).names[1:]
    for file in files:
        for block in read_validated_blocks(how, BlockRange(file, 0)):
            yield replace(block, table=block.table.select(columns))


def _reading(log: LogSpec, root: UPath, name: str) -> tuple[LogSpec, list[LogFile]]:
    """Returns how a file is read. The event times of `raw_logs` columns are those that the file has."""
    source = log.source.model_copy(update={"files": glob.escape(name).replace("%", "%%")})
    if name.endswith(".parquet") and EVENT_TIME in _columns_of(root / name):
        columns = {EVENT_TIME: "int", **source.columns}
        changes = {"format": "parquet", "columns": columns, "rename": {}, "header": False}
        changes |= {"list_separator": None, "explode": None, "part_separator": None, "path_columns": None, "trim": False}
        changes |= {"decimal_ints": False, "paths": None, "multiline": False}
        source = source.model_copy(update=changes)
        clock = Time(column=EVENT_TIME, unit="us", timezone=log.time.timezone)
    elif log.time.by_position:
        raise NoClock(
            f"the log {log.dataset} has no clock, so its lines have no event time; write Parquet files with the "
            f"columns of raw_logs, and {EVENT_TIME} in microseconds since 1970 UTC"
        )
    else:
        clock = log.time
    return log.model_copy(update={"source": source, "time": clock}), find_files(source, root)


def _columns_of(path: UPath) -> list[str]:
    """Returns the columns of a Parquet file; of a damaged one, which reading it reports, `event_time`."""
    try:
        with path.open("rb") as file:
            return pq.read_schema(file).names
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        return [EVENT_TIME]
