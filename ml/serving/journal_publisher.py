"""Publishes closed journals: their rows are written as Parquet files to the stream folder, exactly once and in order.

`ml.serving.journal` appends events to `<stream>/.journal/<folder>-<number>.jsonl` and closes these files. Each closed file is
written as `<stream>/<folder>/journal-<number>.parquet`, with the columns of the raw log. The names have the same number, so a
service that crashes between the two steps writes the same file again. The last published journal of each log stays, empty, as
`<folder>-<number>.published`: later numbers are above it, also after the Parquet files were deleted and the clock was set back.
"""

from __future__ import annotations

import fnmatch
import json
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pyarrow as pa
from upath import UPath

from ml.catalog.experiment import EXPERIMENT, VARIANT, VARIANTS
from ml.disk import fsync
from ml.parquet import read_parquet, replace_table
from ml.schema import EVENT_TIME
from ml.serving.event_rows import EventRows

JOURNAL = ".journal"
_log = logging.getLogger("evergreen")


class JournalPublisher:
    """Publishes the closed journals of one dataset, beginning with those that an earlier service left.

    One thread at a time may call it.

    Args:
        root: `<home>/stream/<dataset>`, a local folder.
        event_rows: What reads the lines of each log, by its folder.

    Attributes:
        folder: Where the journals are.
        waiting: Number of closed journals of each log that are not published, because the oldest of them cannot be.
    """

    def __init__(self, root: Path, event_rows: Mapping[str, EventRows]) -> None:
        self.folder = root / JOURNAL
        self.folder.mkdir(parents=True, exist_ok=True)
        self.waiting = dict.fromkeys(event_rows, 0)
        self._root, self._event_rows = root, event_rows
        self._acknowledged_size: dict[Path, int] = {}  # of closed journals that have other events after the acknowledged ones
        self._logged: dict[Path, str] = {}  # why journals wait
        self._newest = {
            log: max(map(_number, _journals(root / log, "parquet") + self._emptied(log)), default=0) for log in event_rows
        }
        left = _journals(self.folder, "jsonl")
        self._last = max([*self._newest.values(), *map(_number, left)])
        for path in left:
            if (log := path.stem.rpartition("-")[0]) not in event_rows:
                self._set_aside(path, f"{log} is not one of the logs {sorted(event_rows)}")
        for log in event_rows:
            self.publish_closed(log)

    def next_path(self, log: str) -> Path:
        """Return the path of a new journal, whose number is above all earlier ones, also if the clock was set back."""
        self._last = max(time.time_ns(), self._last + 1)
        return self.folder / f"{log}-{self._last:020d}.jsonl"

    def truncate(self, path: Path, size: int) -> None:
        """Remove the events of a closed journal after the acknowledged ones: now, or else before it is published.

        Args:
            path: The journal.
            size: Bytes of the events that are acknowledged.
        """
        self._acknowledged_size[path] = size
        try:
            self._truncate(path)
        except OSError as error:
            _log.warning("%s: has events that are not acknowledged, and are removed before it is published: %s", path, error)

    def _truncate(self, path: Path) -> None:
        """Remove events that are not acknowledged, if they could not be removed earlier. Raises `OSError`."""
        if (size := self._acknowledged_size.get(path)) is not None:
            os.truncate(path, size)
            del self._acknowledged_size[path]

    def publish_closed(self, log: str, opened: Path | None = None) -> None:
        """Publish the closed journals of a log, the oldest first. One that must wait blocks the newer ones.

        Readers take the files in the order of their names, and would not read one that comes later under an earlier name.

        Args:
            log: The folder of the log.
            opened: The journal that is open; None without one.
        """
        closed = [path for path in _journals(self.folder, "jsonl", log) if path != opened]
        while closed and self._publish(log, closed[0]):
            self._logged.pop(closed.pop(0), None)
        self.waiting[log] = len(closed)

    def _publish(self, log: str, path: Path) -> bool:
        """Write a closed journal as a Parquet file of the stream folder, and empty it. A torn last line is dropped.

        Returns whether newer journals can be published. A journal whose events are no longer rows of the log is set aside.
        """
        try:
            self._truncate(path)
            if complete := path.read_bytes().rpartition(b"\n")[0]:
                path = self._in_order(log, path)
                self._write_events(log, _number(path), complete)
            self._empty(log, path)
        except (OSError, MemoryError) as error:  # the journal stays, and is published by a later call or start
            return self._wait(path, f"not published yet: {error}")
        except Exception as error:  # one journal must neither stop the start nor hold back newer ones
            return self._set_aside(path, error)
        return True

    def _empty(self, log: str, path: Path) -> None:
        """Remove the events of a journal that has been published, and keep its number if it is the last one of the log."""
        path.rename(path.with_suffix(".published"))
        fsync(self.folder)
        *older, newest = self._emptied(log)
        os.truncate(newest, 0)
        for other in older:
            other.unlink()

    def _emptied(self, log: str) -> list[Path]:
        return _journals(self.folder, "published", log)

    def _in_order(self, log: str, path: Path) -> Path:
        """Rename a journal that a newer one has overtaken, such as one that was set aside, so that readers find its file."""
        number = _number(path)
        if number < self._newest[log] and not self._target(log, number).exists():
            path = path.rename(self.next_path(log))
            fsync(self.folder)  # a crash of the machine must not bring the old name back beside the published file
        return path

    def _wait(self, path: Path, why: str) -> bool:
        """Log why a journal waits, unless the same reason was logged last. Returns False."""
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

    def _write_events(self, log: str, number: int, complete: bytes) -> None:
        """Publish the lines of a journal."""
        lines = [json.loads(line) for line in complete.split(b"\n")]
        noted = {name: pa.array([line.pop(name, None) for line in lines], pa.string()) for name in (EXPERIMENT, VARIANT)}
        rows = self._event_rows[log].read(lines)
        if noted[VARIANT].null_count < len(rows):
            shown = rows
            for name, values in noted.items():
                shown = shown.append_column(name, values)
            replace_table(shown.sort_by(EVENT_TIME), self._target(VARIANTS, number), durable=True)
        # The journal is emptied only after its rows are on disk.
        replace_table(rows.sort_by(EVENT_TIME), self._target(log, number), durable=True)
        self._newest[log] = max(self._newest[log], number)
        self._last = max(self._last, number)  # of a journal that was set aside and restored

    def _target(self, log: str, number: int) -> Path:
        return self._root / log / f"journal-{number:020d}.parquet"


def _journals(folder: Path, kind: str, log: str = "*") -> list[Path]:
    """Return the files of a folder that come from journals, the oldest of each log first."""
    return sorted(path for path in folder.glob(f"{log}-*.{kind}") if path.stem.rpartition("-")[2].isdecimal())


def _number(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])


def read_events(folder: Path, names: Iterable[str], since: int) -> Iterator[pa.Table]:
    """Read the events of published files from a point in time on, in the order in which they were stored."""
    for name in sorted(fnmatch.filter(names, "journal-*.parquet")):
        rows = read_parquet(UPath(folder / name))
        kept = rows.filter(pa.array(rows[EVENT_TIME].to_numpy() >= since))
        if len(kept):
            yield kept
