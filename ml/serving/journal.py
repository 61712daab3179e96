"""The journal of events: acknowledged events survive a crash, and reach the stream folder exactly once.

Events are appended to `<stream>/.journal/<folder>-<number>.jsonl` and flushed to disk before they are acknowledged. Every few
seconds the file is closed, and its rows are written as one Parquet file, with the columns of the raw log, to
`<stream>/<folder>/`, where the joiner or online training takes it. The name of the Parquet file comes from the journal's, so a
service that crashes between the two steps writes the same file again. The last published journal of each log stays, empty, as
`<folder>-<number>.published`: later numbers are above it, also after the Parquet files were deleted and the clock was set back.

| dataset                          | folder                                        |
|----------------------------------|-----------------------------------------------|
| with a log of actions            | `impressions` and `actions`                   |
| with a single log                | `examples`                                    |
| with an experiment               | `variants` beside `impressions` or `examples` |

`variants` has the rows of impressions, or of the single log, with the experiment and the user's variant, which the logs do not
have as columns.
"""

from __future__ import annotations

import fnmatch
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
from upath import UPath

from ml.catalog.experiment import EXPERIMENT, VARIANT, VARIANTS, Experiment
from ml.catalog.log_spec import LogSpec
from ml.catalog.spec import DatasetSpec
from ml.disk import fsync
from ml.lake import is_local
from ml.parquet import read_parquet, write_table
from ml.schema import EVENT_TIME
from ml.serving.event_rows import EventRows, WrongEvent
from ml.serving.variants import variants_of

ROTATE_SECONDS = 2.0
ROTATE_BYTES = 8 << 20
JOURNAL = ".journal"
ACTIONS = "actions"
"""The folder of a log of actions. An action changes nothing before the joiner has made an example of it."""
_log = logging.getLogger("evergreen")


class JournalFull(OSError):
    """Events cannot be stored, so they are not acknowledged."""


class Journal:
    """Stores events of one dataset.

    Args:
        spec: The dataset.
        stream: `<home>/stream/<dataset>`, a local folder.
        experiment: The experiment that takes place, whose variants are noted with impressions; None without one.

    Attributes:
        stored: Number of events that were stored.
        waiting: By log, the number of closed journals that could not be published, because of the first of them.

    Raises:
        ValueError: The folder is not local: an append to an object store cannot be made durable.
    """

    def __init__(self, spec: DatasetSpec, stream: UPath, experiment: Experiment | None = None) -> None:
        if not is_local(stream):
            raise ValueError(f"{stream}: the journal needs a local folder")
        self.spec, self.root = spec, Path(stream.path)
        self.logs = logs_of(spec)
        self._event_rows = {folder: EventRows(folder, log) for folder, log in self.logs.items()}
        self._experiment = experiment
        self._folder = self.root / JOURNAL
        self._folder.mkdir(parents=True, exist_ok=True)
        self._open: dict[str, tuple[Path, BinaryIO, float]] = {}
        self._uncut: dict[Path, int] = {}  # sizes of closed journals without events that are not acknowledged
        self._lock = threading.Lock()
        self.stored, self.waiting = 0, dict.fromkeys(self.logs, 0)
        self._logged: dict[Path, str] = {}  # why journals wait
        self._newest = {
            folder: max(map(_number, _journals(self.root / folder, "parquet") + self._emptied(folder)), default=0)
            for folder in self.logs
        }
        left = _journals(self._folder, "jsonl")
        self._last = max([*self._newest.values(), *map(_number, left)])
        for path in left:
            if (folder := path.stem.rpartition("-")[0]) not in self.logs:
                self._set_aside(path, f"{folder} is none of the logs {sorted(self.logs)}")
        for folder in self.logs:
            self._publish_closed(folder)

    def append(self, given: Mapping[str, Sequence[Mapping[str, Any]]], now: int) -> dict[str, pa.Table]:
        """Store events, and return after they are on disk.

        Args:
            given: Events by log, which is `examples`, `impressions` or `actions`: rows with columns of the log, as
                `EventRows.of` takes them.
            now: Time of the service.

        Returns:
            The rows of each log that has any, with all columns of the log.

        Raises:
            WrongEvent: There is no such log, or an event is not a row of it; see `EventRows.of`. Nothing is stored.
            JournalFull: The disk is full, or cannot be written. Nothing is stored.
        """
        if wrong := [folder for folder, events in given.items() if events and folder not in self.logs]:
            raise WrongEvent(f"{wrong[0]}: the dataset {self.spec.name} has the logs {sorted(self.logs)}")
        rows = {folder: self._event_rows[folder].of(events, now) for folder, events in given.items() if events}
        lines = {
            folder: b"".join(json.dumps(row).encode() + b"\n" for row in self._noted(folder, own).to_pylist())
            for folder, own in rows.items()
        }
        with self._lock:
            self._write_lines(lines)
            self.stored += sum(map(len, rows.values()))
            for folder in lines:
                if self._open[folder][1].tell() >= ROTATE_BYTES:
                    self._close(folder)
        return rows

    def _write_lines(self, lines: Mapping[str, bytes]) -> None:
        """Append lines to the journals of their logs: all of them are on disk afterwards, or none. Raises `JournalFull`."""
        begun: list[tuple[str, Path, int]] = []
        try:
            for folder, data in lines.items():
                path, file, _ = self._file(folder)
                begun.append((folder, path, file.tell()))
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            for folder, path, size in begun:
                self._undo(folder, path, size)
            raise JournalFull(error.errno, f"{self._folder}: events cannot be stored: {error.strerror}") from error

    def rotate(self, at_once: bool = False) -> None:
        """Publish journals that are older than `ROTATE_SECONDS`, or all of them."""
        with self._lock:
            for folder, (_, _, opened) in list(self._open.items()):
                if at_once or time.monotonic() - opened >= ROTATE_SECONDS:
                    self._close(folder)
            for folder in self.logs:
                self._publish_closed(folder)  # what could not be published before

    def unread(self, since: int) -> Iterator[pa.Table]:
        """Read back the published events from a point in time on, which the raw logs of the lake do not have yet."""
        return read_events(self.observed, self.published(), since)

    @property
    def observed(self) -> Path:
        """The folder of the events that change later requests, which are all but actions."""
        return self.root / ("impressions" if "impressions" in self.logs else "examples")

    def published(self) -> list[str]:
        """Return the names of the files in `observed`, in any order, which takes little time even for those of a day."""
        return os.listdir(self.observed) if self.observed.is_dir() else []  # noqa: PTH208 (a tenth of the time of paths)

    @property
    def is_published(self) -> bool:
        """Whether the stream folder has all stored events."""
        return not any(self._folder.glob("*.jsonl"))

    def _noted(self, folder: str, rows: pa.Table) -> pa.Table:
        """Append the experiment and the variants of the users to what was shown."""
        experiment, user = self._experiment, self.spec.user
        if experiment is None or user is None or folder == ACTIONS:
            return rows
        own = variants_of(experiment, rows[user].combine_chunks())
        names = [experiment.name if name else None for name in own]
        for column, values in ((EXPERIMENT, names), (VARIANT, own)):
            rows = rows.append_column(column, pa.array(values, pa.string()))
        return rows

    def _file(self, folder: str) -> tuple[Path, BinaryIO, float]:
        """Return the open journal of a log. Raises `OSError`."""
        if folder not in self._open:
            path = self._next_path(folder)
            file = path.open("xb")
            try:
                fsync(self._folder)  # a crash of the machine must not lose the name
            except OSError:
                file.close()
                path.unlink()
                raise
            self._open[folder] = path, file, time.monotonic()
        return self._open[folder]

    def _next_path(self, folder: str) -> Path:
        """Return the path of a new journal, whose number is above all earlier ones, also if the clock was set back."""
        self._last = max(time.time_ns(), self._last + 1)
        return self._folder / f"{folder}-{self._last:020d}.jsonl"

    def _undo(self, folder: str, path: Path, size: int) -> None:
        """Close a journal, and remove what was written of events that are not acknowledged."""
        _, file, _ = self._open.pop(folder)
        self._uncut[path] = size
        try:
            file.close()
        except OSError:
            _log.debug("%s: closed with an error", path)
        try:
            self._cut(path)
        except OSError as error:
            _log.warning("%s: has events that are not acknowledged, and are removed before it is published: %s", path, error)

    def _cut(self, path: Path) -> None:
        """Remove what could not be removed before of events that are not acknowledged. Raises `OSError`."""
        if (size := self._uncut.get(path)) is not None:
            os.truncate(path, size)
            del self._uncut[path]

    def _close(self, folder: str) -> None:
        _, file, _ = self._open.pop(folder)
        file.close()
        self._publish_closed(folder)

    def _publish_closed(self, folder: str) -> None:
        """Publish the closed journals of a log, the oldest first. One that must wait holds up the newer ones.

        Readers take the files in the order of their names, and would not read one that comes later under an earlier name.
        """
        current = self._open[folder][0] if folder in self._open else None
        closed = [path for path in _journals(self._folder, "jsonl", folder) if path != current]
        while closed and self._publish(folder, closed[0]):
            self._logged.pop(closed.pop(0), None)
        self.waiting[folder] = len(closed)

    def _publish(self, folder: str, path: Path) -> bool:
        """Write a closed journal as a Parquet file of the stream folder, and empty it. A torn last line is dropped.

        Returns whether newer journals can be published. One whose events are no rows of the log any more is set aside.
        """
        try:
            self._cut(path)
            if complete := path.read_bytes().rpartition(b"\n")[0]:
                path = self._in_order(folder, path)
                self._write_events(folder, _number(path), complete)
            self._empty(folder, path)
        except (OSError, MemoryError) as error:  # the journal stays, and is published by a later call or start
            return self._wait(path, f"not published yet: {error}")
        except Exception as error:  # one journal must neither stop the start nor hold back newer ones
            return self._set_aside(path, error)
        return True

    def _empty(self, folder: str, path: Path) -> None:
        """Remove the events of a journal that has been published, and keep its number if it is the last one of the log."""
        path.rename(path.with_suffix(".published"))
        fsync(self._folder)
        *older, newest = self._emptied(folder)
        os.truncate(newest, 0)
        for other in older:
            other.unlink()

    def _emptied(self, folder: str) -> list[Path]:
        return _journals(self._folder, "published", folder)

    def _in_order(self, folder: str, path: Path) -> Path:
        """Rename a journal that a newer one has overtaken, such as one that was set aside, so that readers find its file."""
        number = _number(path)
        if number < self._newest[folder] and not self._target(folder, number).exists():
            path = path.rename(self._next_path(folder))
            fsync(self._folder)  # a crash of the machine must not bring the old name back beside the published file
        return path

    def _wait(self, path: Path, why: str) -> bool:
        """Log why a journal waits, once until the reason is another one. Returns False."""
        if self._logged.get(path) != why:
            self._logged[path] = why
            _log.warning("%s: %s", path, why)
        return False

    def _set_aside(self, path: Path, why: object) -> bool:
        """Rename a journal that cannot be published. Returns whether that was possible."""
        aside = path.with_suffix(".refused")
        try:
            path.rename(aside)
        except OSError as error:
            return self._wait(path, f"not set aside yet: {error}")
        _log.error(
            "%s: its events are not rows of the catalog entry (%s), and are not published; "
            "restore the entry, rename the file to %s, and start the service again",
            *(aside, why, path.name),
        )
        return True

    def _write_events(self, folder: str, number: int, complete: bytes) -> None:
        """Publish the lines of a journal."""
        lines = [json.loads(line) for line in complete.split(b"\n")]
        noted = {name: pa.array([line.pop(name, None) for line in lines], pa.string()) for name in (EXPERIMENT, VARIANT)}
        rows = self._event_rows[folder].read(lines)
        if noted[VARIANT].null_count < len(rows):
            shown = rows
            for name, values in noted.items():
                shown = shown.append_column(name, values)
            self._write(shown, self._target(VARIANTS, number))
        self._write(rows, self._target(folder, number))
        self._newest[folder] = max(self._newest[folder], number)
        self._last = max(self._last, number)  # of a journal that was set aside and restored

    def _target(self, folder: str, number: int) -> Path:
        return self.root / folder / f"journal-{number:020d}.parquet"

    def _write(self, rows: pa.Table, target: Path) -> None:
        """Write rows as a file that appears complete."""
        aside = target.with_name(f".{target.name}")
        write_table(rows.sort_by(EVENT_TIME), str(aside))
        fsync(aside)  # the journal is removed only after its rows are on disk
        aside.rename(target)
        fsync(target.parent)


def _journals(folder: Path, kind: str, log: str = "*") -> list[Path]:
    """Return the files of a folder that come from journals, the oldest of each log first."""
    return sorted(path for path in folder.glob(f"{log}-*.{kind}") if path.stem.rpartition("-")[2].isdecimal())


def _number(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])


def let_count(observe: Callable[[pa.Table], None], rows: pa.Table) -> None:
    """Observe stored events. An error is logged, because a client must not send again what is stored."""
    try:
        observe(rows)
    except Exception:
        _log.exception("%d stored events do not count for requests to this process", len(rows))


def read_events(folder: Path, names: Iterable[str], since: int) -> Iterator[pa.Table]:
    """Read the events of published files from a point in time on, in the order in which they were stored."""
    for name in sorted(fnmatch.filter(names, "journal-*.parquet")):
        rows = read_parquet(UPath(folder / name))
        kept = rows.filter(pa.array(rows[EVENT_TIME].to_numpy() >= since))
        if len(kept):
            yield kept


def logs_of(spec: DatasetSpec) -> dict[str, LogSpec]:
    """Return the logs whose events can be stored, by their folder."""
    actions = spec.actions_log
    return {"examples": spec.log} if actions is None else {"impressions": spec.log, ACTIONS: actions}
