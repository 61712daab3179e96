"""Replays days of the lake's raw logs as a stream: files of consecutive rows appear in the stream folder at a pace.

A day gives the same files however often the replay was interrupted. Files that are in the folder already are not written again,
and a replay with another width of files is refused.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.datasets.slices import bounds_by_count, bounds_by_minutes
from ml.days import MICROSECONDS_PER_SECOND
from ml.lake import Lake, is_local
from ml.logs.read import raw_parts
from ml.parquet import table_bytes
from ml.schema import EVENT_TIME

READ_ROWS = 65_536


@dataclass(frozen=True)
class Fed:
    """A file that was written.

    Attributes:
        name: Name of the file.
        rows: Number of rows.
        event_to: Time of its last event, in microseconds since 1970 UTC.
    """

    name: str
    rows: int
    event_to: int


def feed_day(
    spec: DatasetSpec,
    day: str,
    lake: Lake,
    folder: UPath,
    *,
    slices: int = 50,
    minutes: float | None = None,
    speed: float = math.inf,
    wait: Callable[[float], bool] | None = None,
) -> Iterator[Fed]:
    """Write the rows of a day into a stream folder, in time order.

    A file appears when its last event is due: `speed` seconds of event time pass in each second. After an interruption, the
    clock continues at the end of the last file that is in the folder.

    Args:
        spec: The dataset.
        day: `YYYY-MM-DD`.
        lake: The lake that holds `raw_logs` of the day.
        folder: The stream folder; it is created.
        slices: Number of files, with equal numbers of rows.
        minutes: Instead of `slices`: width of a file in minutes of event time.
        speed: Pace as a multiple of real time; by default, as fast as possible.
        wait: Waits some seconds and returns whether to stop, as `threading.Event.wait` does; by default it never stops.

    Yields:
        Each file once it is in the folder.

    Raises:
        MissingPartition: The day is not in the lake.
        ValueError: The speed is not positive, or the folder has files of the day of another width.
    """
    if not speed > 0:
        raise ValueError(f"speed: expected a positive number, found {speed}")
    wait = wait or _wait
    parts = raw_parts(lake, spec.name, day, spec.examples_log.stage)
    times = np.concatenate([np.zeros(0, np.int64), *(_times(part) for part in parts)])
    bounds = bounds_by_minutes(times, minutes) if minutes else bounds_by_count(len(times), slices)
    folder.mkdir(parents=True, exist_ok=True)
    remove_incomplete(folder)
    there = {path.name for path in folder.iterdir()}
    due = times[0] if len(times) else 0  # event time until which the clock has run
    for number, rows in enumerate(_cut(parts, bounds)):
        name, last = file_name(day, number), int(rows[EVENT_TIME][-1].as_py())
        if name in there:
            _require_rows(folder / name, len(rows))
            due = last
            continue
        if wait((last - due) / MICROSECONDS_PER_SECOND / speed):
            return
        due = last
        write_arriving(rows, folder / name)
        yield Fed(name, len(rows), last)


def file_name(day: str, number: int) -> str:
    """Return the name of a file of a day. Names sort in time order."""
    return f"{day}-{number:06d}.parquet"


def write_arriving(rows: pa.Table, path: UPath) -> None:
    """Write a Parquet file so that it appears in its folder when it is complete."""
    write_whole(table_bytes(rows), path)


def write_whole(data: bytes, path: UPath) -> None:
    """Write a file so that it appears in its folder when it is complete."""
    if not is_local(path):
        path.write_bytes(data)  # an object appears as a whole
        return
    beside = Path(path.path).with_name(f".{path.name}.part")
    beside.write_bytes(data)
    beside.replace(path.path)


def remove_incomplete(folder: UPath) -> None:
    """Remove files that `write_whole` had not finished when its process was killed."""
    for path in folder.iterdir():
        if path.name.startswith(".") and path.name.endswith(".part"):
            path.unlink()


def _require_rows(path: UPath, rows: int) -> None:
    """Check that a file of an earlier replay has the rows that this one would write. Otherwise rows would be written twice."""
    with path.fs.open(path.path, "rb") as file:
        found = pq.ParquetFile(file).metadata.num_rows
    if found != rows:
        raise ValueError(
            f"{path} has {found} rows, and would now have {rows}: the day was replayed with other slices or minutes before; "
            "use the same again, or delete the files of the day if nothing has read them"
        )


def _times(part: str) -> np.ndarray:
    path = UPath(part)
    return pq.read_table(path.path, columns=[EVENT_TIME], filesystem=path.fs)[EVENT_TIME].to_numpy()


def _cut(parts: Sequence[str], bounds: Sequence[int]) -> Iterator[pa.Table]:
    """Yield the rows between each two bounds. About one file's rows and one batch are in memory."""
    held: list[pa.Table] = []
    begin, place = bounds[0], 1
    for batch in _batches(parts):
        table = pa.Table.from_batches([batch])
        while place < len(bounds) and begin + sum(map(len, held)) + len(table) >= bounds[place]:
            taken = bounds[place] - begin - sum(map(len, held))
            yield pa.concat_tables([*held, table.slice(0, taken)]).combine_chunks()
            table, held = table.slice(taken), []
            begin, place = bounds[place], place + 1
        if len(table):
            held.append(table)


def _batches(parts: Sequence[str]) -> Iterator[pa.RecordBatch]:
    for part in parts:
        path = UPath(part)
        with path.fs.open(path.path, "rb") as file:
            yield from pq.ParquetFile(file).iter_batches(READ_ROWS)


def _wait(seconds: float) -> bool:
    time.sleep(seconds)
    return False
