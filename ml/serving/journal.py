"""The journal of events: acknowledged events survive a crash, and reach the stream folder exactly once.

Events are appended to `<stream>/.journal/<folder>-<number>.jsonl` and flushed to disk before they are acknowledged. Every few
seconds the file is closed, and `ml.serving.journal_publisher` writes its rows as one Parquet file, with the columns of the raw
log, to `<stream>/<folder>/`, where the joiner or online training takes it.

| dataset                          | folder                                        |
|----------------------------------|-----------------------------------------------|
| with a log of actions            | `impressions` and `actions`                   |
| with a single log                | `examples`                                    |
| with an experiment               | `variants` beside `impressions` or `examples` |

`variants` has the rows of impressions, or of the single log, with the experiment and the user's variant, which the logs do not
have as columns.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
from upath import UPath

from ml.catalog.experiment import EXPERIMENT, VARIANT, Experiment
from ml.catalog.log_spec import LogSpec
from ml.catalog.spec import DatasetSpec
from ml.disk import fsync
from ml.lake import is_local
from ml.serving.event_rows import EventRows, WrongEvent
from ml.serving.journal_publisher import JournalPublisher, read_events
from ml.serving.variants import variants_of

ROTATE_SECONDS = 2.0
ROTATE_BYTES = 8 << 20
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

    Raises:
        ValueError: The folder is not local: an append to an object store cannot be made durable.
    """

    def __init__(self, spec: DatasetSpec, stream: UPath, experiment: Experiment | None = None) -> None:
        if not is_local(stream):
            raise ValueError(f"{stream}: the journal needs a local folder")
        self.spec, self.root = spec, Path(stream.path)
        self.logs = logs_of(spec)
        self.stored = 0
        self._event_rows = {folder: EventRows(folder, log) for folder, log in self.logs.items()}
        self._experiment = experiment
        self._open: dict[str, tuple[Path, BinaryIO, float]] = {}
        self._lock = threading.Lock()
        self._publisher = JournalPublisher(self.root, self._event_rows)
        self._folder = self._publisher.folder

    @property
    def waiting(self) -> dict[str, int]:
        """Number of closed journals of each log that are not published, because the oldest of them cannot be."""
        return self._publisher.waiting

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
            folder: b"".join(json.dumps(row).encode() + b"\n" for row in self._with_variants(folder, own).to_pylist())
            for folder, own in rows.items()
        }
        with self._lock:
            self._write_lines(lines)
            self.stored += sum(map(len, rows.values()))
            for folder in lines:
                if self._open[folder][1].tell() >= ROTATE_BYTES:
                    self._close(folder)
                    self._publisher.publish_closed(folder)
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
        """Publish journals that are older than `ROTATE_SECONDS`, or all of them, and what could not be published before."""
        with self._lock:
            for folder, (_, _, opened) in list(self._open.items()):
                if at_once or time.monotonic() - opened >= ROTATE_SECONDS:
                    self._close(folder)
            for folder in self.logs:
                self._publisher.publish_closed(folder, self._open[folder][0] if folder in self._open else None)

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

    def _with_variants(self, folder: str, rows: pa.Table) -> pa.Table:
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
            path = self._publisher.next_path(folder)
            file = path.open("xb")
            try:
                fsync(self._folder)  # a crash of the machine must not lose the name
            except OSError:
                file.close()
                path.unlink()
                raise
            self._open[folder] = path, file, time.monotonic()
        return self._open[folder]

    def _undo(self, folder: str, path: Path, size: int) -> None:
        """Close a journal, and remove what was written of events that are not acknowledged."""
        try:
            self._close(folder)
        except OSError:
            _log.debug("%s: closed with an error", path)
        self._publisher.truncate(path, size)

    def _close(self, folder: str) -> None:
        _, file, _ = self._open.pop(folder)
        file.close()


def logs_of(spec: DatasetSpec) -> dict[str, LogSpec]:
    """Return the logs whose events can be stored, by their folder."""
    actions = spec.actions_log
    return {"examples": spec.log} if actions is None else {"impressions": spec.log, ACTIONS: actions}
