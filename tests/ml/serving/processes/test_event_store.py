"""Events that one process stores for others: acknowledged once, and counted by every request that comes later."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pyarrow as pa
import pytest
from upath import UPath

from ml.serving.journal import Journal, JournalFull
from ml.serving.journal_publisher import read_events
from ml.serving.processes import event_feed
from ml.serving.processes.event_feed import EventFeed
from ml.serving.processes.event_store import EventStore, RemoteEvents
from tests.helpers.kiosk_lake import spec_of


class Service:
    """A store, and a worker that reads from it."""

    def __init__(self, root: Path) -> None:
        self.feed = EventFeed.create()
        self.store = EventStore(Journal(spec_of(), UPath(root)), self.feed)
        self.feed.begin(0)
        self.worker = RemoteEvents(spec_of(), None, EventFeed.attach(self.feed.handle, 0))  # type: ignore[arg-type]
        self.seen: list[int] = []

    def send(self, item: int) -> int:
        return self.store.append({"examples": [{"item": item}]}, now=item)["examples"]

    def observe(self, rows: pa.Table) -> None:
        self.seen += rows["item"].to_pylist()


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return Service(tmp_path)


@pytest.fixture(params=[OSError(errno.ENOSPC, "No space left on device"), pa.ArrowMemoryError("malloc failed")], ids=type)
def no_memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Event]:
    """Lets writes into the feed end after half of them, with an error, for as long as it is set."""
    whole, failing = os.pwrite, Event()

    def half(fd: int, data: Any, offset: int) -> int:
        if failing.is_set() and len(data) == 1:
            raise request.param
        return whole(fd, data[: (len(data) + 1) // 2], offset)

    monkeypatch.setattr(event_feed.os, "pwrite", half)
    yield failing


def test_a_request_waits_for_events_that_another_thread_is_observing(service: Service) -> None:
    begun, may_end = Event(), Event()

    def slowly(rows: pa.Table) -> None:
        begun.set()
        may_end.wait()
        service.observe(rows)

    service.send(7)
    refresh = Thread(target=service.worker.deliver, args=(slowly,), daemon=True)
    refresh.start()
    begun.wait()
    request = Thread(target=service.worker.deliver, args=(service.observe,), daemon=True)
    request.start()
    request.join(0.2)
    assert request.is_alive(), "it would be answered without an event that was acknowledged"
    may_end.set()
    request.join()
    assert service.seen == [7]


def test_events_that_find_no_memory_are_stored_once_and_counted_later(service: Service, no_memory: Event) -> None:
    service.send(1)
    service.worker.deliver(service.observe)
    no_memory.set()
    assert service.send(2) == 1 and service.send(3) == 1, "they are stored, so a client must not send them again"
    service.worker.deliver(service.observe)
    assert service.seen == [1]
    with pytest.raises(JournalFull, match="too little memory"):
        service.store.begin(1)
    no_memory.clear()
    service.store.rotate()
    service.send(4)
    service.worker.deliver(service.observe)
    assert service.seen == [1, 2, 3, 4]


def test_events_that_cannot_be_observed_hold_up_neither_later_ones_nor_a_request(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    def observe(rows: pa.Table) -> None:
        if rows["item"].to_pylist() == [2]:
            raise ValueError("not finite")
        service.observe(rows)

    for item in (1, 2, 3):
        service.send(item)
    with caplog.at_level(logging.ERROR, "evergreen"):
        service.worker.deliver(observe)
    assert service.seen == [1, 3]
    [record] = caplog.records
    assert record.getMessage() == "1 events were stored, but could not be added to this process's live state"


def test_a_worker_that_begins_has_each_event_once(service: Service, tmp_path: Path) -> None:
    service.send(1)
    service.send(2)
    folder, names = service.store.begin(1)
    service.send(3)
    later = RemoteEvents(spec_of(), None, EventFeed.attach(service.feed.handle, 1))  # type: ignore[arg-type]
    for rows in read_events(folder, names, since=0):
        service.observe(rows)
    later.deliver(service.observe)
    assert service.seen == [1, 2, 3]
