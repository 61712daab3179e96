"""The streaming source of the joiner: a folder of files for each of the two logs, read as blocks by Spark tasks.

An offset lists the files of its batch. Files that are there are read in the order of their names, each once, and are validated
as the files of a landed log are: rows that cannot be used are written to `quarantine/<log>/` with file, line and reason.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql.datasource import DataSource, DataSourceStreamReader, InputPartition
from upath import UPath

from ml.catalog.log_spec import LogSpec
from ml.joiner.blocks import ARROW_BATCH_BYTES, IMPRESSIONS, SIDES, Layout, divide, pack_blocks
from ml.joiner.join import NO_KEY
from ml.joiner.keys import event_times, without_nulls
from ml.joiner.read_files import ReadFiles
from ml.joiner.status import joiner_folder
from ml.logs.arriving import NoClock, arriving_blocks
from ml.logs.ingest_task import raw_schema
from ml.logs.quarantine import Quarantine
from ml.logs.text.layout import WrongFile
from ml.parquet import write_table

SCHEMA = (
    "part int, side int, bucket long, newest long, held int, rows int, payload binary, file string, size long, counts string"
)
"""Columns of the blocks. `size` is at least 0 in the last row of a file, -1 otherwise."""
_ARROW = pa.schema(
    [
        ("part", pa.int32()),
        ("side", pa.int32()),
        ("bucket", pa.int64()),
        ("newest", pa.int64()),
        ("held", pa.int32()),
        ("rows", pa.int32()),
        ("payload", pa.binary()),
        ("file", pa.string()),
        ("size", pa.int64()),
        ("counts", pa.string()),
    ]
)
END = 4
"""Bit of `held` that says that the stream has ended: everything that is left is joined."""
MOST_FILES = 500
"""Most files that a batch reads from a folder."""
STOP = "stop"
"""File of the folder `joiner`. While it exists, no further batch starts."""
CANNOT_OPEN = "cannot be opened"
_Packed = tuple[int, int, int, bytes]  # partition, bucket, number of rows, and the packed rows
_log = logging.getLogger("evergreen")


@dataclass(frozen=True)
class StreamInput:
    """Settings of the source.

    Attributes:
        root: Folder of the stream, with the folders `impressions` and `actions`.
        logs: The log of impressions and the log of actions.
        key: Columns of the key.
        layout: Partitions and buckets.
        batch_bytes: Approximate bytes of files that a batch reads from each folder; at least one file.
        ends: Whether the stream ends with the files that are there.
    """

    root: str
    logs: tuple[LogSpec, LogSpec]
    key: tuple[str, ...]
    layout: Layout
    batch_bytes: int
    ends: bool = False

    def folder(self, side: int) -> UPath:
        """Returns the folder of one of the logs."""
        return UPath(self.root) / SIDES[side]

    def quarantine(self, side: int) -> UPath:
        """Returns the folder of the rows of a log that could not be used."""
        return UPath(self.root) / "quarantine" / SIDES[side]

    def to_json(self) -> str:
        """Returns the settings as text."""
        logs = [log.model_dump(mode="json") for log in self.logs]
        layout = [self.layout.partitions, self.layout.bucket]
        return json.dumps([self.root, logs, self.key, layout, self.batch_bytes, self.ends])

    @classmethod
    def from_json(cls, text: str) -> StreamInput:
        """Returns the settings that `to_json` wrote."""
        root, (impressions, actions), key, layout, batch_bytes, ends = json.loads(text)
        logs = LogSpec.model_validate(impressions), LogSpec.model_validate(actions)
        return cls(root, logs, tuple(key), Layout(*layout), batch_bytes, ends)


class JoinerSource(DataSource):
    """Spark's name for the source: `spark.readStream.format("evergreen_joiner")`."""

    @classmethod
    def name(cls) -> str:
        return "evergreen_joiner"

    def schema(self) -> str:
        return SCHEMA

    def streamReader(self, schema: Any) -> DataSourceStreamReader:
        return _Reader(StreamInput.from_json(self.options["input"]))


@dataclass
class StreamFile(InputPartition):
    """A file to read.

    Attributes:
        side: `IMPRESSIONS` or `ACTIONS`.
        file: Its name; empty for the end of the stream.
        size: Its bytes when the batch was planned.
        held: Bits of the sides that have further files, which the watermark waits for; or `END`.
    """

    side: int
    file: str
    size: int
    held: int


class _Reader(DataSourceStreamReader):
    """Plans batches in the driver, and reads files in tasks.

    An offset is `{"number": n, "files": {side: [[name, bytes], ...]}, "held": bits}`: the files of the batch that it ends.
    """

    def __init__(self, source: StreamInput) -> None:
        self._source = source
        self._read: ReadFiles | None = None

    def initialOffset(self) -> dict[str, Any]:
        return {"number": 0, "files": {side: [] for side in SIDES}, "held": 0}

    def latestOffset(self, start: Mapping[str, Any], limit: object) -> dict[str, Any]:
        folder = joiner_folder(UPath(self._source.root))
        if (folder / STOP).exists():
            return dict(start)
        if self._read is None:  # the first batch of this process; a batch that was repeated is in the record
            self._read = ReadFiles.load(folder)
        self._read.add(start["files"])
        files, held = {}, 0
        for side, name in enumerate(SIDES):
            unread = self._read.unread(UPath(self._source.root), name)
            files[name], is_last = self._first(side, unread)
            held |= (not is_last) << side
        if not any(files.values()):
            ends = self._source.ends and start["held"] != END and any(self._read.sizes.values())
            held = END
            if not ends:
                return dict(start)
        return {"number": start["number"] + 1, "files": files, "held": held}

    def _first(self, side: int, unread: Sequence[str]) -> tuple[list[tuple[str, int]], bool]:
        """Returns the first files, of about `batch_bytes` together, with their sizes, and whether they are all."""
        taken: list[tuple[str, int]] = []
        total = 0
        for name in unread:
            try:
                size = (self._source.folder(side) / name).stat().st_size
            except FileNotFoundError:
                continue  # a link to nothing, or removed since it was listed
            total += size
            if taken and (total > self._source.batch_bytes or len(taken) == MOST_FILES):
                return taken, False
            taken.append((name, size))
        return taken, True

    def partitions(self, start: Mapping[str, Any], end: Mapping[str, Any]) -> list[InputPartition]:
        files: list[InputPartition] = [
            StreamFile(side, name, size, end["held"]) for side, of in enumerate(SIDES) for name, size in end["files"][of]
        ]
        return files or ([StreamFile(IMPRESSIONS, "", 0, END)] if end["held"] == END else [])

    def read(self, partition: InputPartition) -> Iterator[pa.RecordBatch]:
        assert isinstance(partition, StreamFile)
        if partition.file:
            yield from read_file(self._source, partition)
        else:
            yield _batch(self._source.layout, partition, -1, [], {})


def read_file(source: StreamInput, read: StreamFile) -> Iterator[pa.RecordBatch]:
    """Reads a file as blocks.

    Args:
        source: The settings.
        read: The file.

    Yields:
        For each block of the file, rows for each partition and bucket with its packed rows; at least one row for each
        partition, so that all partitions know the time. Then a row for each partition at the end of the file. A batch has
        about `ARROW_BATCH_BYTES` of packed rows at most.

    Raises:
        FileNotFoundError: The file was removed after the batch was planned.
    """
    side, name = read.side, read.file
    log, line = source.logs[side], 1
    schema = raw_schema(log)
    try:
        for place, block in enumerate(arriving_blocks(log, source.folder(side), name)):
            bad = Quarantine.of(name, (block.bad_lines + line).tolist(), block.reasons, block.texts)
            table = block.table.add_column(0, schema.field(0), pa.array(block.times))
            usable, missing = without_nulls(table, source.key)
            if missing:
                bad = Quarantine.concat([bad, _without_key(name, block.row_lines + line, table, source.key)])
            _keep(source, side, bad, f"{name}.{place:06d}")
            line += block.num_lines
            counts = Counter({SIDES[side]: len(table)})
            counts.update({quarantined(reason): count for reason, count in bad.reasons.items()})
            counts["out of range"] += block.before + block.after
            newest, rows, size = _newest(usable), list[_Packed](), 0
            for part, bucket, of in divide(usable, source.key, source.layout):
                for number, data in pack_blocks(of):
                    rows.append((part, bucket, number, data))
                    size += len(data)
                    if size >= ARROW_BATCH_BYTES:
                        yield _batch(source.layout, read, newest, rows, +counts)
                        rows, size, counts = [], 0, Counter()
            yield _batch(source.layout, read, newest, rows, +counts)
    except (WrongFile, NoClock, FileNotFoundError, PermissionError) as error:  # NoLogs is a FileNotFoundError
        if not (source.folder(side) / name).exists():
            raise FileNotFoundError(
                f"{source.folder(side) / name}: the file was removed before it was read; copy it back, then start again"
            ) from error
        reason = _reason(error)
        _keep(source, side, Quarantine.of(name, [line], [reason], [str(error).encode()]), f"{name}.file")
        _log.warning("%s is quarantined: %s", source.folder(side) / name, error)
        yield _batch(source.layout, read, -1, [], {quarantined(reason): 1})
    yield _batch(source.layout, read, -1, [], {}, read.size)


def _reason(error: Exception) -> str:
    if isinstance(error, PermissionError):
        return CANNOT_OPEN
    return "wrong columns" if isinstance(error, WrongFile) else "no event time or no member with rows"


def quarantined(reason: str) -> str:
    """Returns the name under which rows or files that were quarantined for a reason are counted."""
    return f"quarantined: {reason}"


def _newest(table: pa.Table) -> int:
    """Returns the latest event time of a block, without the latest hundredth of its rows and at least one row; -1 if empty.

    A clock that jumps ahead in single rows then does not make all other rows late.
    """
    times = event_times(table)
    if not len(times):
        return -1
    place = max(len(times) - 1 - max(1, len(times) // 100), 0)
    return int(np.partition(times, place)[place])


def _without_key(name: str, lines: np.ndarray, table: pa.Table, key: Sequence[str]) -> Quarantine:
    missing = np.zeros(len(table), bool)
    for column in key:
        missing |= table[column].is_null().to_numpy()
    rows = table.filter(pa.array(missing)).to_pylist()
    texts = [repr(row).encode() for row in rows]
    return Quarantine.of(name, lines[missing].tolist(), [NO_KEY] * len(rows), texts)


def _keep(source: StreamInput, side: int, bad: Quarantine, name: str) -> None:
    """Writes quarantined rows. Reading them again writes the same file."""
    if len(bad):
        write_table(bad.table, source.quarantine(side) / f"{name}.parquet")


def _batch(
    layout: Layout,
    read: StreamFile,
    newest: int,
    rows: Sequence[_Packed],
    counts: Mapping[str, int],
    size: int = -1,
) -> pa.RecordBatch:
    there = {part for part, *_ in rows}
    all_rows = [*rows, *((part, 0, 0, b"") for part in range(layout.partitions) if part not in there)]
    count = len(all_rows)
    texts = [json.dumps(counts) if n == 0 and counts else None for n in range(count)]
    columns = [
        [part for part, *_ in all_rows],
        [read.side] * count,
        [bucket for _, bucket, *_ in all_rows],
        [newest] * count,
        [read.held] * count,
        [number for _, _, number, _ in all_rows],
        [data for *_, data in all_rows],
        [read.file] * count,
        [*[-1] * (count - 1), size],
        texts,
    ]
    return pa.RecordBatch.from_arrays([pa.array(c, f.type) for c, f in zip(columns, _ARROW, strict=True)], schema=_ARROW)
