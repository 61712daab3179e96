"""The keeper of workers: it restarts workers that end, gives up with the reason after repeated failures, and ends in order."""

from __future__ import annotations

import errno
import logging
import multiprocessing.spawn
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from upath import UPath

from ml.days import day_bounds
from ml.embeddings.inference.shared.epochs import SharedEpochs
from ml.http.server import listen
from ml.lake import Lake
from ml.serving.journal import Journal
from ml.serving.models import ExportedModel, NewestModel
from ml.serving.processes import keeper
from ml.serving.processes.event_feed import EventFeed
from ml.serving.processes.event_store import RemoteEvents
from ml.serving.processes.keeper import Keeper, WorkerFailed, _Run
from ml.serving.processes.shared_models import AttachedModels
from ml.sync.receiver import Receiver
from tests.helpers.failing_disk import failing
from tests.helpers.kiosk_lake import spec_of
from tests.helpers.sync_runs import Run
from tests.helpers.waiting import until
from tests.helpers.workers import (
    answers,
    answers_its_last_request,
    cuts_its_pipe_once,
    ends_after_its_start,
    ends_at_its_start,
    says_why_it_ends,
)
from tests.ml.serving.test_models import FIRST, SPEC, export

pytestmark = pytest.mark.slow


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with listen() as opened:
        yield opened


def end_service() -> None:
    os.kill(os.getpid(), signal.SIGINT)


class Slow(ExportedModel):
    """A model that loads a version until an event is set."""

    loaded: threading.Event | None = None

    def poll(self) -> bool:
        if self.loaded is not None:
            self.loaded.wait()
        return super().poll()


def test_a_worker_that_ends_again_and_again_is_started_a_limited_number_of_times(
    tmp_path: Path, listener: socket.socket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keeper, "MOST_SHORT_RUNS", 3)
    monkeypatch.setattr(keeper, "AGAIN_SECONDS", 0.01)
    running, ready = Keeper(None, {}, Journal(spec_of(), UPath(tmp_path)), 1, listener, ends_after_its_start), list[list[str]]()  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING, "evergreen"), pytest.raises(WorkerFailed, match="code 7 after 3 short runs"):
        running.run(ready.append)
    assert ready == [["place"]], "it was ready once"
    assert [record.getMessage() for record in caplog.records] == [
        "worker 0 has ended with code 7, and is started again in 0 s"
    ] * 2


def test_a_service_whose_worker_does_not_start_ends_at_once(tmp_path: Path, listener: socket.socket) -> None:
    running = Keeper(None, {}, Journal(spec_of(), UPath(tmp_path)), 2, listener, ends_at_its_start)  # type: ignore[arg-type]
    with pytest.raises(WorkerFailed, match="code 9 before it answered"):
        running.run(lambda _: pytest.fail("no worker was ready"))


def test_the_reason_of_a_worker_is_the_reason_of_the_service(tmp_path: Path, listener: socket.socket) -> None:
    running = Keeper(None, {}, Journal(spec_of(), UPath(tmp_path)), 1, listener, says_why_it_ends)  # type: ignore[arg-type]
    with pytest.raises(WorkerFailed, match=r"code 1 \(there is no LambdaRank\) before it answered"):
        running.run(lambda _: pytest.fail("no worker was ready"))


def test_a_worker_that_ends_before_it_reads_a_large_service_does_not_hold_up_the_keeper(
    tmp_path: Path, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multiprocessing.spawn, "_python_exe", b"/bin/false")
    large: Any = bytes(1 << 24)
    running = Keeper(large, {}, Journal(spec_of(), UPath(tmp_path)), 1, listener, answers)  # type: ignore[arg-type]
    with pytest.raises(WorkerFailed, match="code 1 before it answered"):
        running.run(lambda _: pytest.fail("no worker was ready"))


def test_a_worker_whose_pipe_has_ended_is_started_again(
    tmp_path: Path, listener: socket.socket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keeper, "CUT_SECONDS", 0.1)
    running = Keeper(None, {}, Journal(spec_of(), UPath(tmp_path)), 1, listener, cuts_its_pipe_once)  # type: ignore[arg-type]

    def has_begun_again() -> bool:
        return (run := running._runs[0]).process is not first and run.ready is not None

    def watch(_: list[str]) -> None:
        nonlocal first
        first = running._runs[0].process
        threading.Thread(target=lambda: (until(has_begun_again), end_service()), daemon=True).start()

    first: Any = None
    with caplog.at_level(logging.WARNING, "evergreen"):
        running.run(watch)
    assert [record.getMessage() for record in caplog.records] == [
        "the pipe of worker 0 has ended, and so it is ended",
        "worker 0 has ended with code -15, and is started again in 0 s",
    ]


def test_a_model_that_loads_for_long_holds_up_neither_another_model_nor_events(tmp_path: Path, listener: socket.socket) -> None:
    lake, run, end = Lake.at(tmp_path / "lake"), Run(tmp_path / "sync"), day_bounds(FIRST, SPEC.zone)[1]
    export(lake, FIRST, run)
    quick = NewestModel(ExportedModel(lake, SPEC, "dlrm"), Receiver(run.folder, "server"), SPEC, "dlrm")
    slow = Slow(lake, SPEC, "dlrm")
    slow.loaded = loaded = threading.Event()
    journal = Journal(spec_of(), UPath(tmp_path / "stream"))
    running = Keeper(None, {"quick": quick, "slow": slow}, journal, 1, listener, answers)  # type: ignore[arg-type]
    reader = AttachedModels(running._shared.handle, SharedEpochs.attach(running._epochs.handle, process=1))
    run.train()
    run.publisher.publish((end, end + 1_000_000))

    def is_new() -> bool:
        reader.refresh()
        return reader.by_name["quick"].version.version == "1"

    def check(_: list[str]) -> None:
        until(is_new)
        running._store.append({"examples": [{"item": 7}]}, now=0)
        until(lambda: journal.is_published)
        loaded.set()
        end_service()

    running.run(check)
    assert [rows["item"].to_pylist() for rows in journal.unread(since=0)] == [[7]]


def test_a_worker_is_told_which_journals_wait(tmp_path: Path, listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    running = Keeper(None, {}, Journal(spec_of(), UPath(tmp_path)), 1, listener, answers)  # type: ignore[arg-type]
    own, other = multiprocessing.Pipe()
    worker = RemoteEvents(spec_of(), other, EventFeed.attach(running._feed.handle, 0))
    answering = threading.Thread(target=running._answer, args=(0, _Run(None, 0), own))  # type: ignore[arg-type]
    answering.start()
    monkeypatch.setattr("ml.parquet.write_table", failing(errno.ENOSPC))
    running._store.append({"examples": [{"item": 7}]}, now=0)
    running._store.rotate(at_once=True)
    worker.poll()
    other.close()
    answering.join()
    assert worker.waiting == {"examples": 1}


def test_an_ending_service_refuses_connections_while_its_workers_answer_requests(
    tmp_path: Path, listener: socket.socket
) -> None:
    running = Keeper(None, {}, Journal(spec_of(), UPath(tmp_path)), 1, listener, answers_its_last_request)  # type: ignore[arg-type]
    address, client = listener.getsockname(), socket.socket()

    def is_refused() -> bool:
        try:
            socket.create_connection(address).close()
        except ConnectionRefusedError:
            return True
        return False

    def end_and_connect() -> None:
        end_service()
        until(is_refused)
        refused_with.append(running._runs[0].process.is_alive())
        client.close()

    def watch(_: list[str]) -> None:
        client.connect(address)
        threading.Thread(target=end_and_connect, daemon=True).start()

    refused_with = list[bool]()
    with client:
        running.run(watch)
    assert refused_with == [True]


def test_a_second_signal_while_the_keeper_ends_does_not_hold_it_up(tmp_path: Path, listener: socket.socket) -> None:
    class Interrupted(threading.Event):
        """A signal arrives while the event is being set."""

        def set(self) -> None:
            with self._cond:  # type: ignore[attr-defined]
                end_service()
            super().set()

    running = Keeper(None, {}, Journal(spec_of(), UPath(tmp_path)), 1, listener, answers)  # type: ignore[arg-type]
    running._stop = Interrupted()
    running.run(lambda _: end_service())
    assert running._stop.is_set()
