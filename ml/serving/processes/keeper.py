"""The process that keeps the workers of a service: it starts them, and starts a worker again that has ended.

    keeper      models and receivers, rows (shared memory), journal of events, no requests
    workers     requests on one listening socket; rows, models and events of the keeper

A request of a worker to the keeper is a tuple on a pipe: `append` with events to store, `begin` before it reads events,
`waiting` for the journals that wait, `ready` when it begins to answer requests, and `failed` with the reason if it cannot.
"""

from __future__ import annotations

import logging
import multiprocessing
import pickle
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

from ml.embeddings.inference.shared.epochs import SharedEpochs
from ml.embeddings.inference.shared.pickling import dump
from ml.http.server import GRACE_SECONDS
from ml.serving.engine import POLL_SECONDS
from ml.serving.journal import Journal
from ml.serving.models import ServedModel
from ml.serving.processes import child
from ml.serving.processes.child import Work
from ml.serving.processes.counters import counter_files
from ml.serving.processes.event_feed import EventFeed
from ml.serving.processes.event_store import EventStore
from ml.serving.processes.shared_models import SharedModels
from ml.serving.processes.worker import Service, Shared
from ml.serving.repeating import repeat

LOOK_SECONDS = 0.2
LONG_SECONDS = 60.0
"""A worker that has answered requests for longer is started again at once."""
AGAIN_SECONDS, MOST_WAIT = 1.0, 30.0
"""Seconds before the second start again after short runs, which double with each further one, and the most of them."""
MOST_SHORT_RUNS = 6
"""If no worker answers requests, the service ends when one has had this number of short runs in succession."""
CUT_SECONDS = 2.0
"""After the end of its pipe, a worker that has not ended by itself is ended: it could store no events."""
MOST_END_SECONDS = GRACE_SECONDS + 30.0
"""A worker that takes longer to end is killed. Requests have the grace, and the last poll and the last writes the rest."""
_log = logging.getLogger("evergreen")


class WorkerFailed(ChildProcessError):
    """A worker cannot be started; what it has written before it ended says why."""


@dataclass
class _Run:
    """One run of a worker.

    Attributes:
        process: The process.
        short_runs: Number of short runs before it, in succession.
        ready: When it began to answer requests, by `time.monotonic`; None before.
        reason: Why it ends, as far as it knows.
        cut: When its pipe has ended.
        ending: When it was told to end.
        due: After its end, when the worker is started again.
        answering: The thread that answers what it asks.
    """

    process: BaseProcess
    short_runs: int
    ready: float | None = None
    reason: str | None = None
    cut: float | None = None
    ending: float | None = None
    due: float | None = None
    answering: threading.Thread = field(init=False)

    @property
    def answers(self) -> bool:
        """Whether the worker answers requests."""
        return self.ready is not None and self.process.is_alive()


class Keeper:
    """Runs a service of N workers. It belongs to the main thread of its process.

    Args:
        service: What the workers serve.
        models: The models by name, which the keeper polls.
        journal: Where events are stored.
        processes: Number N of workers.
        listener: The listening socket, which is closed at the end.
        work: What a worker runs, a function of a module that a new process can import: `ml.serving.processes.worker.work`, or
            one that calls it.
    """

    def __init__(
        self,
        service: Service,
        models: Mapping[str, ServedModel],
        journal: Journal,
        processes: int,
        listener: socket.socket,
        work: Work,
    ) -> None:
        self._models, self._count, self._listener, self._work = models, processes, listener, work
        self._memory, self._service = dump(service)
        self._epochs, self._feed = SharedEpochs.create(1 + processes), EventFeed.create()
        self._journal, self._store = journal, EventStore(journal, self._feed)
        self._shared = SharedModels(models, self._epochs)
        self._runs: dict[int, _Run] = {}
        self._is_ending = False
        self._stop = threading.Event()  # set outside of signal handlers: a second signal inside `set` would deadlock
        self._columns: list[str] = []

    def run(self, when_ready: Callable[[list[str]], None]) -> None:
        """Serve until SIGTERM or SIGINT. Requests in progress are answered before it returns.

        Args:
            when_ready: Called when all workers answer requests, with the columns that describe a request or the user.

        Raises:
            WorkerFailed: A worker ends before all answer requests for the first time, or later, no worker answers and none can
                be started again.
            OSError: There is too little memory for counters.
        """
        before = {number: signal.signal(number, self._end) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            with counter_files(self._journal.root, self._count) as counters:
                self._run(counters, when_ready)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _run(self, counters: Path, when_ready: Callable[[list[str]], None]) -> None:
        polls = [partial(self._update, model) for model in self._models.values()]
        repeating = [
            threading.Thread(target=repeat, args=(polls, self._stop, POLL_SECONDS), name="models", daemon=True),
            threading.Thread(target=repeat, args=([self._store.rotate], self._stop, POLL_SECONDS), name="journal", daemon=True),
        ]
        for thread in repeating:
            thread.start()
        is_ready = False
        try:
            for number in range(self._count):
                self._start(number, counters)
            while not self._is_ending:
                wait([run.process.sentinel for run in self._runs.values() if run.due is None], LOOK_SECONDS)
                self._watch(is_ready, counters)
                if not is_ready and all(run.ready is not None for run in self._runs.values()):
                    is_ready = True
                    when_ready(self._columns)
        finally:
            self._stop.set()
            self._listener.close()  # with the workers' own, so that new connections are refused while requests are answered
            self._end_workers()
            for thread in repeating:
                thread.join()
            self._store.rotate(at_once=True)

    def _end(self, _: int, __: FrameType | None) -> None:
        self._is_ending = True

    def _update(self, model: ServedModel) -> None:
        """Look for a new version, and pass it on at once: that of another model may take long."""
        model.poll()
        self._shared.publish()

    def _start(self, number: int, counters: Path, short_runs: int = 0) -> None:
        context = multiprocessing.get_context("spawn")
        own, other = context.Pipe()
        shared = Shared(self._service, self._shared.handle, self._epochs.handle, self._feed.handle, counters)
        arguments = (self._work, pickle.dumps(shared), self._listener, number, other)
        process = context.Process(target=child.begin, args=arguments, name=f"worker-{number}", daemon=True)
        process.start()
        other.close()
        run = self._runs[number] = _Run(process, short_runs)
        run.answering = threading.Thread(target=self._answer, args=(number, run, own), name=f"events-{number}", daemon=True)
        run.answering.start()

    def _answer(self, number: int, run: _Run, connection: Connection) -> None:
        """Answer what a worker asks until it ends."""
        with connection:
            try:
                while True:
                    connection.send(self._answer_to(number, run, *connection.recv()))
            except (EOFError, OSError):
                pass  # it has ended
            except Exception:
                _log.exception("worker %d cannot be understood, and is ended", number)
        run.cut = time.monotonic()

    def _answer_to(self, number: int, run: _Run, what: str, *arguments: Any) -> Any:
        """Return the answer to a question, or the exception to raise."""
        try:
            if what == "append":
                return self._store.append(*arguments)
            if what == "begin":
                return self._store.begin(number)
            if what == "waiting":
                return self._journal.waiting
        except Exception as error:
            return error
        if what == "ready":
            self._columns, run.ready = *arguments, time.monotonic()
        else:
            [run.reason] = arguments
        return None

    def _watch(self, is_ready: bool, counters: Path) -> None:
        """Start workers again that have ended, after repeated short runs with a pause."""
        now = time.monotonic()
        for number, run in list(self._runs.items()):
            if self._is_ending:
                return
            if run.process.is_alive():
                self._end_if_cut(number, run, now)
            elif run.due is None:
                self._ended(number, run, is_ready, now)
            elif now >= run.due:
                try:
                    self._start(number, counters, run.short_runs)
                except OSError as error:  # such as too many processes
                    run.due = now + MOST_WAIT
                    _log.warning("worker %d cannot be started, and is tried again in %.0f s: %s", number, MOST_WAIT, error)

    def _end_if_cut(self, number: int, run: _Run, now: float) -> None:
        """End a worker whose pipe has ended, and which would refuse all events."""
        if run.cut is None or now - run.cut < CUT_SECONDS:
            return
        if run.ending is None:
            _log.warning("the pipe of worker %d has ended, and so it is ended", number)
            run.process.terminate()
            run.ending = now
        elif now - run.ending > MOST_END_SECONDS:
            run.process.kill()

    def _ended(self, number: int, run: _Run, is_ready: bool, now: float) -> None:
        """Decide when a worker that has ended is started again."""
        run.answering.join()  # a `begin` that came late would otherwise count for the next run
        self._release(number)
        because = f" ({run.reason})" if run.reason else ""
        what = f"worker {number} has ended with code {run.process.exitcode}{because}"
        if not is_ready and run.ready is None:
            raise WorkerFailed(f"{what} before it answered requests")
        was_long = run.ready is not None and now - run.ready > LONG_SECONDS
        run.short_runs = 0 if was_long else run.short_runs + 1
        if run.short_runs >= MOST_SHORT_RUNS and not any(other.answers for other in self._runs.values()):
            raise WorkerFailed(f"{what} after {run.short_runs} short runs in succession, and no other worker answers requests")
        pause = min(AGAIN_SECONDS * 2.0 ** (run.short_runs - 2), MOST_WAIT) if run.short_runs > 1 else 0.0
        run.due = now + pause
        _log.warning("%s, and is started again in %.0f s", what, pause)

    def _release(self, number: int) -> None:
        """Wait for a worker that has ended no longer: neither for what it read, nor for what it had to read."""
        self._epochs.clear(1 + number)
        self._feed.end(number)

    def _end_workers(self) -> None:
        """End all workers, and kill those that take too long."""
        end = time.monotonic() + MOST_END_SECONDS
        for run in self._runs.values():
            run.process.terminate()
        for number, run in self._runs.items():
            run.process.join(max(end - time.monotonic(), 0))
            if run.process.is_alive():
                run.process.kill()
                run.process.join()
            self._release(number)
