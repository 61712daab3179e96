"""Follows a folder of arriving rows: in the order of file names, each row exactly once by position, in parts of bounded size.

The files are in the source format of the dataset's log, or Parquet with the columns of `raw_logs`. A file must be complete when
it appears, so a writer renames it into the folder: names that begin with `.` or `_`, or end with `.part`, are ignored. The
caller stores the position in its checkpoints, and nothing in the folder changes.

Rows are validated as those of a landed log are. Single rows whose clock is ahead would end a day and make all rows after them
late, so they cannot be used. Rows that cannot be used, and files that cannot be read, are written with the
reason to `quarantine/` beside the folder of the files.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from upath import UPath

from ml.catalog.log_spec import LogSpec
from ml.catalog.spec import DatasetSpec
from ml.days import MICROSECONDS_PER_HOUR
from ml.logs.arriving import NoClock, arriving_blocks, arriving_files
from ml.logs.clock import day_key
from ml.logs.external_sort import sort_by_time
from ml.logs.ingest_task import raw_schema
from ml.logs.quarantine import Quarantine
from ml.logs.sources import NoLogs
from ml.logs.text.layout import WrongFile
from ml.online.passed_files import PassedFiles
from ml.parquet import write_table
from ml.schema import EVENT_TIME

PART_ROWS = 10_000
"""Most rows of one part. A longer file is delivered in several parts."""
POLL_SECONDS = 1.0
EARLIER_DAY, OUT_OF_ORDER = "time on an earlier day", "time before earlier rows"
AHEAD = "time on a later day, over an hour after the other rows of its block"
UNREAD = "file name before the last that was read"
_AHEAD_SHARE, _AHEAD_FROM = 100, 10  # one row in 100 may be ahead, and one in a block of 10 to 199 rows
_log = logging.getLogger("evergreen")


class LostFile(FileNotFoundError):
    """A file of which only some rows were taken, or one that a checkpoint needs, no longer exists."""


@dataclass(frozen=True)
class Position:
    """Which rows of a stream were taken.

    Attributes:
        file: Name of the last file of which rows were taken; empty before the first.
        rows: Number of its valid rows that were taken.
        is_complete: Whether the whole file was taken.
        day: Day of the last row; None before the first.
        newest: Latest event time of all rows that were taken, in microseconds since 1970 UTC.
    """

    file: str = ""
    rows: int = 0
    is_complete: bool = True
    day: str | None = None
    newest: int = np.iinfo(np.int64).min


@dataclass(frozen=True)
class Arrived:
    """Rows of one day, in time order.

    Attributes:
        rows: N rows of `raw_schema(log)`. N is 0 at the end of a file that has no usable rows left.
        day: The day of the rows; None without rows.
        position: The position after these rows.
        quarantined: Number of rows that were quarantined since the part before, by reason.
        out_of_range: Number of rows outside the log's days since the part before.
    """

    rows: pa.Table
    day: str | None
    position: Position
    quarantined: dict[str, int] = field(default_factory=dict)
    out_of_range: int = 0


@dataclass(frozen=True)
class StreamFolder:
    r"""A folder of arriving rows of one log.

    Args:
        root: Folder of the files; it need not exist yet.
        log: The log whose rows arrive.
        in_order: Whether a row that is earlier than the rows before it is quarantined; see `StreamFolder.of`.
        part_rows: Most rows of one part.

    Example:
        >>> import tempfile, pathlib
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / "0001.csv").write_text("0,hat\n5,bag\nsix,cap\n")
        >>> log = LogSpec(
        ...     dataset="shop", time={"column": "time"}, partitions={"start": "1970-01-01", "end": "1970-01-02"},
        ...     source={"files": "*.csv", "format": "csv", "columns": {"time": "int", "item": "string"}})
        >>> part = next(StreamFolder(UPath(folder), log).read(Position()))
        >>> part.rows["item"].to_pylist(), part.quarantined
        (['hat', 'bag'], {'bad number in column time': 1})
    """

    root: UPath
    log: LogSpec
    in_order: bool = False
    part_rows: int = PART_ROWS

    @classmethod
    def of(cls, spec: DatasetSpec, root: UPath) -> StreamFolder:
        """Return the stream of a dataset's examples.

        With sampled negatives or feature tables, features depend on earlier events, so rows must be in time order. Otherwise a
        late row of the same day is as good as any other.

        Args:
            spec: The dataset.
            root: Folder of the files.
        """
        return cls(root, spec.examples_log, in_order=spec.reads_earlier_events)

    @property
    def quarantine(self) -> UPath:
        """Folder of the rows that could not be used."""
        return self.root.parent / "quarantine"

    def names(self, after: Position) -> list[str]:
        """List the files that have rows after a position, in order."""
        names = arriving_files(self.root)
        return [name for name in names if name > after.file or (name == after.file and not after.is_complete)]

    def read(self, position: Position) -> Iterator[Arrived]:
        """Read what is in the folder after a position, without waiting.

        Raises:
            LostFile: The position is inside a file that is no longer there.
        """
        names = self.names(position)
        if not position.is_complete and position.file not in names:
            raise LostFile(
                f"{self.root / position.file}: {position.rows} of its rows were read, but the file no longer exists; "
                "copy it back, then start again"
            )
        for name in names:
            for part in self._parts(name, position):
                position = part.position
                yield part

    def follow(
        self,
        position: Position,
        wait: Callable[[float], bool],
        on_wait: Callable[[str], None] = _log.info,
        passed: PassedFiles | None = None,
    ) -> Iterator[Arrived]:
        """Read what arrives after a position, and wait for more until `wait` returns True.

        A file that arrives under a name before the position is not read: its name is quarantined, logged and counted.

        Args:
            position: Where to begin.
            wait: Waits some seconds and returns whether to stop, as `threading.Event.wait` does.
            on_wait: Receives a message when there is nothing to read, once until something is read again.
            passed: The files that were passed. With a stored record, files that arrived while nothing ran are found too; by
                default all files before the position count as passed.

        Raises:
            LostFile: The position is inside a file that is no longer there.
        """
        said, passed = False, passed or self.passed(position)
        while True:
            if unread := self._report_unread(position, passed):
                yield Arrived(raw_schema(self.log).empty_table(), None, position, {UNREAD: unread})
            for part in self.read(position):
                position, said = part.position, False
                passed.add(position.file)
                yield part
            if not said:
                on_wait(f"waiting for files in {self.root}" + (f" after {position.file}" if position.file else ""))
                said = True
            if wait(POLL_SECONDS):
                return

    def passed(self, position: Position, follower: str | None = None) -> PassedFiles:
        """Return the record of the files that a follower has passed.

        Args:
            position: The position of the follower. Without a record, the files before it count as passed.
            follower: Name of the follower, under which the record is stored; by default it is in memory.
        """
        path = self.root.parent / "passed" / f"{follower}.txt" if follower else None
        return PassedFiles(path, {name for name in self._all_names() if name <= position.file})

    def _report_unread(self, position: Position, passed: PassedFiles) -> int:
        """Quarantine the names of files that arrived under a name before the position, and return their number."""
        found = self._all_names()
        passed.keep(found)
        unread = [name for name in found if name <= position.file and name not in passed]
        for name in unread:
            text = f"{self.root / name} is not read: its name sorts before {position.file}, which was read"
            _log.warning("%s; deliver it again under a later name", text)
            self._keep(Quarantine.of(name, [0], [UNREAD], [text.encode()]), f"{name}.unread")
            passed.add(name)
        return len(unread)

    def _all_names(self) -> list[str]:
        return self.names(Position())

    def _parts(self, name: str, position: Position) -> Iterator[Arrived]:
        """Read the parts of a file after a position. The last one is at the end of the file."""
        skip = position.rows if name == position.file else 0
        day, newest = position.day, position.newest
        counts: Counter[str] = Counter()
        outside = taken = 0
        held: Arrived | None = None
        line = 1
        try:
            for number, block in enumerate(arriving_blocks(self.log, self.root, name)):
                bad = Quarantine.of(name, (block.bad_lines + line).tolist(), block.reasons, block.texts)
                line += block.num_lines
                self._keep(bad, f"{name}.{number:06d}")
                table = sort_by_time(block.table.add_column(0, raw_schema(self.log).field(0), pa.array(block.times)))
                days = np.sort(block.days)
                usual = _rows_not_ahead(table[EVENT_TIME].to_numpy(), days)
                ahead = _unused(name, table.slice(usual), AHEAD)
                table, days = table.slice(0, usual), days[:usual]
                self._keep(ahead, f"{name}.ahead.{number:06d}")
                if taken >= skip:  # otherwise the block was counted before
                    counts.update(Counter(bad.reasons) + Counter(ahead.reasons))
                    outside += block.before + block.after
                for start, stop in _cuts(days, self.part_rows):
                    taken += stop - start
                    if taken <= skip:
                        continue
                    rows, key = table.slice(start, stop - start), day_key(self.log, int(days[start]))
                    rows, late = self._without_late(name, rows, key, day, newest)
                    self._keep(late, f"{name}.late.{taken:012d}")
                    counts.update(late.reasons)
                    if held is not None:
                        yield held
                        held = None
                    if not len(rows):
                        continue
                    day, newest = key, max(newest, rows[EVENT_TIME][-1].as_py())
                    held = Arrived(rows, day, Position(name, taken, False, day, newest), dict(counts), outside)
                    counts, outside = Counter(), 0
        except (WrongFile, NoClock, NoLogs) as error:
            if not (self.root / name).exists():
                raise LostFile(
                    f"{self.root / name}: the file disappeared before it was read; copy it back, then start again"
                ) from error
            counts[_reason(error)] += 1
            self._keep(Quarantine.of(name, [line], [_reason(error)], [str(error).encode()]), f"{name}.file")
            _log.warning("%s is quarantined: %s", self.root / name, error)
        except FileNotFoundError as error:
            raise LostFile(
                f"{self.root / name}: the file disappeared while it was read; copy it back, then start again"
            ) from error
        if held is not None:
            at_end = replace(held.position, is_complete=True)
            quarantined = dict(Counter(held.quarantined) + counts)
            yield replace(held, position=at_end, quarantined=quarantined, out_of_range=held.out_of_range + outside)
            return
        end = Position(name, taken, True, day, newest)
        yield Arrived(raw_schema(self.log).empty_table(), None, end, dict(counts), outside)

    def _without_late(self, name: str, rows: pa.Table, key: str, day: str | None, newest: int) -> tuple[pa.Table, Quarantine]:
        """Divide rows of one day, in time order, into those that can be used and late ones."""
        if day is not None and key < day:
            return rows.slice(0, 0), _unused(name, rows, EARLIER_DAY)
        late = int(np.searchsorted(rows[EVENT_TIME].to_numpy(), newest)) if self.in_order and key == day else 0
        return rows.slice(late), _unused(name, rows.slice(0, late), OUT_OF_ORDER)

    def _keep(self, bad: Quarantine, name: str) -> None:
        """Write quarantined rows. Reading them again writes the same file."""
        if len(bad):
            write_table(bad.table, self.quarantine / f"{name}.parquet")


def stream_folder(home: str | UPath, dataset: str, kind: str = "examples") -> UPath:
    """Return the default folder of a dataset's arriving rows, `<home>/stream/<dataset>/<kind>`."""
    return UPath(home) / "stream" / dataset / kind


def _cuts(days: npt.NDArray[np.int32], most: int) -> Iterator[tuple[int, int]]:
    """Yield the bounds of parts: at most `most` rows, and of one day."""
    edges = [0, *(np.flatnonzero(np.diff(days)) + 1).tolist(), len(days)]
    for first, last in pairwise(edges):
        for start in range(first, last, most):
            yield start, min(start + most, last)


def _rows_not_ahead(times: npt.NDArray[np.int64], days: npt.NDArray[np.int32]) -> int:
    """Return the number of rows before those whose clock is ahead, of N rows of a block in time order."""
    most = max(len(times) // _AHEAD_SHARE, 1)
    if len(times) < _AHEAD_FROM:
        return len(times)
    last = len(times) - 1 - most
    ahead = (days > days[last]) & (times > times[last] + MICROSECONDS_PER_HOUR)
    return len(times) - int(np.count_nonzero(ahead))


def _unused(name: str, rows: pa.Table, reason: str) -> Quarantine:
    texts = [repr(row).encode() for row in rows.to_pylist()]
    return Quarantine.of(name, [0] * len(rows), [reason] * len(rows), texts)  # rows are sorted: their lines are not known


def _reason(error: Exception) -> str:
    kinds: dict[type[Exception], str] = {NoClock: "no event time", NoLogs: "no member with rows"}
    return kinds.get(type(error), "wrong columns")
