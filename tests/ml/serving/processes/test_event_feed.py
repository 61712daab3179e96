"""Events that one process appends and others read: each once, in order, from where a reader has begun."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from ml.embeddings.inference.shared.ranges import StaleRange
from ml.serving.processes.event_feed import EventFeed


def rows(*items: int) -> pa.Table:
    return pa.table({"item": pa.array(items, pa.int64())})


def items(feed: EventFeed) -> list[int]:
    return [item for part in feed.new() for item in part["item"].to_pylist()]


def held(feed: EventFeed) -> int:
    """Memory of a feed in bytes."""
    return Path(f"/proc/self/fd/{feed.handle.fd}").stat().st_blocks * 512


def test_each_reader_reads_each_event_once_from_where_it_has_begun() -> None:
    writer = EventFeed.create()
    first, second = EventFeed.attach(writer.handle, 0), EventFeed.attach(writer.handle, 1)
    writer.begin(0)
    writer.append(rows(1, 2))
    writer.begin(1)
    writer.append(rows(3))
    assert items(first) == [1, 2, 3] and items(second) == [3]
    writer.append(rows(4))
    assert items(second) == [4] and items(second) == [] and items(first) == [4]


def test_what_all_readers_have_read_takes_no_memory() -> None:
    writer = EventFeed.create()
    first, second = EventFeed.attach(writer.handle, 0), EventFeed.attach(writer.handle, 1)
    writer.begin(0)
    writer.begin(1)
    many = rows(*range(100_000))
    for _ in range(10):
        writer.append(many)
    assert len(items(first)) == 1_000_000
    writer.release()
    assert held(writer) > 8_000_000, "the second one has not read it"
    writer.end(1)
    writer.release()
    assert held(writer) < 100_000
    writer.append(rows(7))
    assert items(first) == [7]
    writer.begin(1)
    assert items(second) == [], "a worker that is started again has the earlier events from files"


def test_a_feed_of_a_process_that_has_ended_cannot_be_read() -> None:
    writer = EventFeed.create()
    handle = writer.handle
    del writer
    with pytest.raises(StaleRange):
        EventFeed.attach(handle, 0)
