"""Events of several processes: one of them stores what the others receive, so the journal has one writer."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow as pa

from ml.catalog.spec import DatasetSpec
from ml.serving.journal import ACTIONS, Journal, JournalFull, logs_of
from ml.serving.journal_publisher import read_events
from ml.serving.observing import observe_stored
from ml.serving.processes.event_feed import EventFeed

_log = logging.getLogger("evergreen")


class EventStore:
    """Stores the events of all workers and passes them on. Threads may use it at any time.

    Args:
        journal: Where events are stored.
        feed: Where all workers read events; with a log of actions, only what was shown, as a single process does.
    """

    def __init__(self, journal: Journal, feed: EventFeed) -> None:
        self._journal, self._feed, self._lock = journal, feed, threading.Lock()
        self._waiting: list[pa.Table] = []  # stored events that are not in the feed yet

    def append(self, given: Mapping[str, Sequence[Mapping[str, Any]]], now: int) -> dict[str, int]:
        """Store events by log; see `Journal.append`. Returns their number by log."""
        with self._lock:
            stored = self._journal.append(given, now)
            self._waiting += [rows for folder, rows in stored.items() if folder != ACTIONS]
            self._feed_waiting()
        return {folder: len(rows) for folder, rows in stored.items()}

    def begin(self, worker: int) -> tuple[Path, list[str]]:
        """Let a worker begin to read the feed.

        Returns:
            The folder and the names of the files with all events up to there.

        Raises:
            JournalFull: The disk is full, so that some events are not in files, or there is too little memory.
        """
        with self._lock:
            self._journal.rotate(at_once=True)
            if not self._journal.is_published:
                raise JournalFull(f"{self._journal.root}: stored events cannot be published, so a process cannot begin")
            self._feed_waiting()
            if self._waiting:
                raise JournalFull("there is too little memory to pass on stored events, so a process cannot begin")
            self._feed.begin(worker)
            return self._journal.observed, self._journal.published()

    def rotate(self, at_once: bool = False) -> None:
        """Publish journals, and release the memory of events that all workers have; see `Journal.rotate`."""
        self._journal.rotate(at_once)
        with self._lock:
            self._feed_waiting()
            self._feed.release()

    def _feed_waiting(self) -> None:
        """Pass stored events on. Without memory they are passed on by a later call: a client must not send them again."""
        try:
            while self._waiting:
                self._feed.append(self._waiting[0])
                del self._waiting[0]
        except (OSError, MemoryError) as error:  # of the shared memory, or of Arrow
            _log.warning(
                "%d batches of events were stored, but could not be added to the live state of all processes yet: %s",
                *(len(self._waiting), error),
            )


class RemoteEvents:
    """The events of a worker: the process that has started it stores them. Threads may use it at any time.

    Args:
        spec: The dataset.
        connection: To that process; see `ml.serving.processes.keeper`.
        feed: The events of all workers.

    Attributes:
        waiting: Journals that wait, as `Journal.waiting` had them at the last `poll`.
    """

    def __init__(self, spec: DatasetSpec, connection: Connection, feed: EventFeed) -> None:
        self.logs = logs_of(spec)
        self.waiting = dict.fromkeys(self.logs, 0)
        self._connection, self._feed = connection, feed
        self._asking, self._delivering = threading.Lock(), threading.Lock()

    def append(self, given: Mapping[str, Sequence[Mapping[str, Any]]], now: int) -> dict[str, int]:
        """Store events, and return their numbers by log after they are on disk; see `Journal.append`. `deliver` has them."""
        return self.ask("append", given, now)

    def unread(self, since: int) -> Iterator[pa.Table]:
        """Read the events from a point in time on that were stored up to now; `deliver` has all later ones."""
        folder, names = self.ask("begin")
        return read_events(folder, names, since)

    def poll(self) -> None:
        """Ask which journals wait."""
        self.waiting = self.ask("waiting")

    def deliver(self, observe: Callable[[pa.Table], None]) -> None:
        """Observe the events that were stored since the last call, also those that other workers have received.

        A call waits for one in another thread, so that all events that were acknowledged before it have been observed after it.
        Events that cannot be observed are logged: they must fail neither the request of another client, nor later events.
        """
        with self._delivering:
            for rows in self._feed.new():
                observe_stored(observe, rows)

    def ask(self, what: str, *arguments: Any) -> Any:
        """Send a question to the other process and return the answer, or raise what it has raised."""
        try:
            with self._asking:
                self._connection.send((what, *arguments))
                answer = self._connection.recv()
        except (EOFError, OSError) as error:
            raise JournalFull("the service is ending, and stores no events") from error
        if isinstance(answer, Exception):
            raise answer
        return answer
