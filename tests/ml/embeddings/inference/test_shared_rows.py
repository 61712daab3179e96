"""Rows that one process changes and another reads: whole, of the right ids, at once, and in one copy."""

from __future__ import annotations

import multiprocessing
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Thread, Timer
from typing import Any

import pytest
import torch

from ml.embeddings.inference import growing_memory
from ml.embeddings.inference.quantised import QuantisedBags
from ml.embeddings.inference.shared.attached_rows import AttachedRows
from ml.embeddings.inference.shared.epochs import EpochsHandle, SharedEpochs
from ml.embeddings.inference.shared.layout import LayoutWriter
from ml.embeddings.inference.shared.pickling import Dump, RowsReader, dump, share_rows
from ml.embeddings.inference.shared.ranges import RangeHandle, SharedRange, StaleRange
from tests.ml.embeddings.inference.test_concurrent_apply import NONE, collisionless, delta_of, read, static, weights_of

IDS = torch.arange(3_000)
READER = 1


def versions_of(rows: torch.Tensor) -> set[int]:
    """Return the versions of the rows of all ids, each of which is whole and of its id."""
    assert bool((rows == rows[:, :1]).all()), "a row in part"
    told = rows[:, 0].long() - 1
    has_row = told >= 0
    assert torch.equal(told[has_row] // 128, IDS[has_row]), "a row of another id"
    return set((told[has_row] % 128).tolist())


def follow(epochs: EpochsHandle, given: Dump, connection: Connection) -> None:
    """Read rows again and again. On each message, read those of all ids, and answer with them and the versions seen before."""
    bags, _ = RowsReader(SharedEpochs.attach(epochs, READER)).load(given)
    connection.send("ready")
    seen = set[int]()
    while True:
        seen |= versions_of(read(bags, IDS))
        if connection.poll():
            if connection.recv() == "end":
                return
            connection.send((read(bags, IDS), seen, private_bytes()))


def change(build: Callable[[], QuantisedBags], connection: Connection) -> None:
    """Apply deltas until this process is killed."""
    bags, epochs = build(), SharedEpochs.create(2)
    share_rows(bags, epochs)
    memory, given = dump(bags)
    connection.send("ready")
    connection.send((epochs.handle, given))
    connection.recv()
    for version in count(1):
        delta = delta_of(IDS, version % 127, seen=bags.kind == "collisionless")
        bags.apply_delta(replace(delta, since=version - 1, step=version))
    del memory


def hold(epochs: EpochsHandle, connection: Connection) -> None:
    with SharedEpochs.attach(epochs, READER).read():
        connection.send("reading")
        connection.recv()


def write(handle: RangeHandle, connection: Connection) -> None:
    """Write to memory of another process that is mapped for reading."""
    view = SharedRange.attach(handle).view()
    connection.send("ready")
    connection.recv()
    view[0] = 1


def private_bytes() -> int:
    """Memory of this process that it shares with no other."""
    found = re.findall(r"Private_\w+:\s+(\d+) kB", Path("/proc/self/smaps_rollup").read_text())
    return 1024 * sum(map(int, found))


@contextmanager
def process(target: Callable[..., None], *arguments: Any) -> Iterator[tuple[BaseProcess, Connection]]:
    context = multiprocessing.get_context("spawn")
    own, other = context.Pipe()
    started = context.Process(target=target, args=(*arguments, other), daemon=True)
    started.start()
    other.close()
    try:
        assert own.recv() in ("ready", "reading")
        yield started, own
    finally:
        started.kill()
        started.join()


@pytest.mark.slow
@pytest.mark.parametrize("build", [collisionless, static])
@pytest.mark.parametrize("rooms", [((64, 1 << 28),), ((2, 4096),)], ids=["in place", "moved"])
def test_another_process_reads_whole_rows_of_its_ids_and_a_delta_when_it_is_applied(
    build: Callable[[], QuantisedBags], rooms: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growing_memory, "_ROOMS", rooms)
    bags, epochs = build(), SharedEpochs.create(2)
    share_rows(bags, epochs)
    memory, given = dump(bags)
    has_ids = bags.kind == "collisionless"
    generator = torch.Generator().manual_seed(0)
    with process(follow, epochs.handle, given) as (_, reader):
        for version in range(1, 60):
            ids = torch.randperm(len(IDS), generator=generator)[: 40 * version]
            deleted = torch.arange(100) if has_ids and version % 3 == 0 else NONE
            bags.apply_delta(delta_of(ids, version, deleted, seen=has_ids))
            if version % 20 == 0:
                reader.send("rows")
                assert torch.equal(reader.recv()[0], read(bags, IDS)), "the delta has been applied"
        bags.apply_delta(delta_of(IDS, 60, seen=has_ids))
        reader.send("rows")
        rows, seen, _ = reader.recv()
        assert torch.equal(rows, weights_of(IDS, 60))
        assert len(seen) > 5
        reader.send("end")
    del memory


@pytest.mark.slow
@pytest.mark.parametrize("build", [collisionless, static])
@pytest.mark.parametrize("seconds", [0.05, 0.31])
def test_a_writer_that_is_killed_during_a_delta_leaves_whole_rows(build: Callable[[], QuantisedBags], seconds: float) -> None:
    with process(change, build) as (writer, connection):
        handle, given = connection.recv()
        bags, _ = RowsReader(SharedEpochs.attach(handle, READER)).load(given)
        connection.send("begin")
        while max(versions_of(read(bags, IDS)), default=0) < 2:
            pass
        killing = Timer(seconds, writer.kill)
        killing.start()
        while killing.is_alive():
            versions_of(read(bags, IDS))
        writer.join()
        assert writer.exitcode == -signal.SIGKILL
        for _ in range(50):
            assert versions_of(read(bags, IDS))


@pytest.mark.slow
def test_a_process_that_has_read_all_rows_has_no_copy_of_them() -> None:
    bags, epochs = collisionless(), SharedEpochs.create(2)
    share_rows(bags, epochs)
    memory, given = dump(bags)
    with process(follow, epochs.handle, given) as (_, reader):
        reader.send("rows")
        before = reader.recv()[2]
        many = torch.arange(3_000, 1_000_000)
        bags.apply_delta(delta_of(torch.cat([IDS, many]), 1))
        reader.send("rows")
        assert reader.recv()[2] - before < bags.nbytes / 4
    del memory


@pytest.mark.slow
def test_a_writer_waits_for_a_reader_in_another_process_unless_it_was_killed() -> None:
    epochs = SharedEpochs.create(2)
    with process(hold, epochs.handle) as (reader, _):
        waiting = Thread(target=epochs.wait_for_readers, daemon=True)
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive() and epochs.readers == 1
        assert reader.pid is not None
        reader.kill()
        reader.join()
        assert reader.exitcode == -signal.SIGKILL and waiting.is_alive()
        epochs.clear(READER)
        waiting.join()
    assert epochs.readers == 0


def test_a_reader_that_begins_later_is_not_waited_for() -> None:
    epochs = SharedEpochs.create(1)
    with epochs.read():
        waiting = Thread(target=epochs.wait_for_readers, daemon=True)
        waiting.start()
        while int(epochs._words[0]) == 1:
            pass
        later = epochs.read()
        later.__enter__()
    waiting.join()
    later.__exit__(None, None, None)


def test_memory_that_its_owner_has_released_cannot_be_attached() -> None:
    held = SharedRange.create(10)
    handle = held.handle
    del held
    others = [SharedRange.create(10) for _ in range(3)]  # one of them takes the file descriptor
    assert handle.fd in {other.handle.fd for other in others}
    with pytest.raises(StaleRange, match="any more"):
        SharedRange.attach(handle)


@pytest.mark.slow
def test_a_reader_cannot_change_rows() -> None:
    held = SharedRange.create(10)
    with process(write, held.handle) as (reader, connection):
        connection.send("write")
        reader.join()
        assert reader.exitcode == -signal.SIGSEGV
    assert bytes(held.view()) == bytes(10)


def test_a_process_can_attach_rows_while_they_move(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growing_memory, "_ROOMS", ((2, 4096),))
    bags, epochs = collisionless(), SharedEpochs.create(2)
    share_rows(bags, epochs)
    reader, handle = SharedEpochs.attach(epochs.handle, READER), bags._rows.handle
    publish, moves = LayoutWriter.publish, list[bool]()

    def attached_before(self: LayoutWriter, memory: growing_memory.GrowingMemory, *arguments: Any) -> None:
        found = AttachedRows(handle, reader)  # begins to read just before the next layout
        moves.append(found._view.layout.rows != memory.handle)
        publish(self, memory, *arguments)

    monkeypatch.setattr(LayoutWriter, "publish", attached_before)
    for version in range(1, 4):
        bags.apply_delta(delta_of(torch.arange(3_000 * version), version))
    assert any(moves)


def test_rows_that_are_not_shared_cannot_be_dumped() -> None:
    with pytest.raises(ValueError, match="call `share` first"):
        dump(static())
