"""Stored events reach the stream folder exactly once, whatever happens to the service."""

from __future__ import annotations

import errno
import json
import os
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from upath import UPath

from ml.disk import fsync
from ml.online.stream import Position, StreamFolder
from ml.parquet import write_table
from ml.serving.event_rows import WrongEvent
from ml.serving.journal import Journal, JournalFull
from ml.serving.journal_publisher import JOURNAL
from tests.helpers.failing_disk import failing, failing_second
from tests.helpers.joined_logs import feed
from tests.helpers.kiosk_lake import END, spec_of


def journal(root: Path) -> Journal:
    return Journal(spec_of(), UPath(root))


def published(root: Path, folder: str = "examples") -> list[dict[str, object]]:
    files = sorted((root / folder).glob("[!.]*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def test_events_are_published_with_all_columns_of_the_log(tmp_path: Path) -> None:
    held = journal(tmp_path)
    rows = held.append({"examples": [{"user": 3, "item": 5}, {"event_time": END - 1, "item": 6}]}, now=END)["examples"]
    assert published(tmp_path) == [] and held.stored == 2
    held.rotate(at_once=True)
    assert published(tmp_path) == rows.sort_by("event_time").to_pylist()
    assert published(tmp_path)[1] == {
        "event_time": END,
        "time": END // 1_000_000,
        "user": 3,
        "item": 5,
        "visit": None,
        "place": None,
    }
    [emptied] = (tmp_path / JOURNAL).iterdir()
    assert emptied.suffix == ".published" and emptied.stat().st_size == 0, "only the number is kept"
    held.rotate(at_once=True)  # nothing is published twice
    assert len(published(tmp_path)) == 2


def test_a_killed_service_publishes_what_it_had_stored_when_it_starts_again(tmp_path: Path) -> None:
    held = journal(tmp_path)
    held.append({"examples": [{"item": n} for n in range(5)]}, now=END)
    [file] = (tmp_path / JOURNAL).iterdir()
    with file.open("ab") as torn:
        torn.write(b'{"event_time": 1, "it')  # was not acknowledged
    journal(tmp_path)
    assert [row["item"] for row in published(tmp_path)] == list(range(5))


def test_a_crash_after_publishing_publishes_the_same_file_again(tmp_path: Path) -> None:
    held = journal(tmp_path)
    held.append({"examples": [{"item": 1}]}, now=END)
    [file] = (tmp_path / JOURNAL).iterdir()
    copy = file.read_bytes()
    held.rotate(at_once=True)
    once = {path.name: path.read_bytes() for path in (tmp_path / "examples").iterdir()}
    file.write_bytes(copy)
    journal(tmp_path)
    assert {path.name: path.read_bytes() for path in (tmp_path / "examples").iterdir()} == once


def test_a_full_disk_is_said_and_stores_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = journal(tmp_path)
    held.append({"examples": [{"item": 1}]}, now=END)
    with monkeypatch.context() as patch:
        patch.setattr("ml.serving.journal.os.fsync", failing(errno.ENOSPC))
        with pytest.raises(JournalFull, match="events cannot be stored: No space left on device"):
            held.append({"examples": [{"item": 2}]}, now=END)
    held.append({"examples": [{"item": 3}]}, now=END)
    held.rotate(at_once=True)
    assert [row["item"] for row in published(tmp_path)] == [1, 3]


@pytest.mark.parametrize("full", [True, False], ids=["disk", "wrong"])
def test_a_request_with_two_logs_is_stored_as_a_whole_or_not_at_all(
    full: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Journal(feed(), UPath(tmp_path))
    shown, action = {"request": "r", "item": 5}, {"request": "r", "item": 5, "kind": "click"}
    held.append({"impressions": [shown]}, now=END)
    if full:
        monkeypatch.setattr("ml.serving.journal.os.fsync", failing_second(errno.ENOSPC, os.fsync))
    with pytest.raises(JournalFull if full else WrongEvent):
        held.append({"impressions": [shown], "actions": [action if full else action | {"item": "five"}]}, now=END)
    monkeypatch.undo()
    assert held.stored == 1
    held.append({"impressions": [shown], "actions": [action]}, now=END)
    held.rotate(at_once=True)
    assert (len(published(tmp_path, "impressions")), len(published(tmp_path, "actions")), held.stored) == (2, 1, 3)


def test_refused_events_are_not_published_after_the_disk_could_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Journal(feed(), UPath(tmp_path))
    shown, action = {"request": "r", "item": 5}, {"request": "r", "item": 5, "kind": "click"}
    held.append({"impressions": [shown], "actions": [action]}, now=END)
    with monkeypatch.context() as patch:
        patch.setattr("ml.serving.journal.os.fsync", failing_second(errno.EIO, os.fsync))
        patch.setattr("ml.serving.journal_publisher.os.truncate", failing(errno.EROFS))
        with pytest.raises(JournalFull, match="events cannot be stored: Input/output error"):
            held.append({"impressions": [shown], "actions": [action]}, now=END)
        held.rotate(at_once=True)
        assert published(tmp_path, "impressions") == [] and not held.is_published
    held.append({"actions": [action]}, now=END)
    held.rotate(at_once=True)
    assert (len(published(tmp_path, "impressions")), len(published(tmp_path, "actions")), held.stored) == (1, 2, 3)
    assert held.is_published


def test_events_that_could_not_be_published_are_published_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = journal(tmp_path)
    held.append({"examples": [{"item": 1}]}, now=END)
    with monkeypatch.context() as patch:
        patch.setattr("ml.parquet.write_table", failing(errno.ENOSPC))
        held.rotate(at_once=True)
    held.append({"examples": [{"item": 2}]}, now=END)
    held.rotate()
    assert [row["item"] for row in published(tmp_path)] == [1]
    held.rotate(at_once=True)
    assert sorted(int(str(row["item"])) for row in published(tmp_path)) == [1, 2]


@pytest.mark.parametrize(
    ("folder", "event", "said"),
    [
        ("examples", {"itm": 1}, r"examples\[1\]\.itm: no such column"),
        ("examples", {"item": "five"}, r"examples\[1\]\.item: expected int64, found 'five'"),
        ("examples", {"item": 3.5}, r"examples\[1\]\.item: expected int64, found 3.5"),
        ("examples", {"item": 2**70}, r"examples\[1\]\.item: expected int64"),
        ("examples", {"event_time": END + 86_400_000_000}, r"examples\[1\]\.event_time: expected microseconds"),
        ("examples", {"event_time": "now"}, r"examples\[1\]\.event_time: expected int64"),
        ("examples", {"time": END // 10**6 + 86_400}, r"examples\[1\]\.time: expected seconds since 1970 UTC from"),
        ("actions", {"item": 1}, r"actions: the dataset kiosk has the logs \['examples'\]"),
    ],
)
def test_a_wrong_event_is_refused_by_name(tmp_path: Path, folder: str, event: dict[str, object], said: str) -> None:
    held = journal(tmp_path)
    with pytest.raises(WrongEvent, match=said):
        held.append({folder: [{"item": 1}, event]}, now=END)
    held.rotate(at_once=True)
    assert published(tmp_path, folder) == []


def test_events_of_a_restarted_service_are_read_back(tmp_path: Path) -> None:
    held = journal(tmp_path)
    held.append({"examples": [{"item": 1, "event_time": END - 5}, {"item": 2}]}, now=END)
    held.rotate(at_once=True)
    tables = list(journal(tmp_path).unread(since=END))
    assert pa.concat_tables(tables)["item"].to_pylist() == [2]


def followed(root: Path, *steps: Callable[[], object]) -> tuple[list[int], Counter[str]]:
    """Follow the stream folder while steps are taken, each when nothing is left to read: items and what was quarantined."""
    items, quarantined, turns = list[int](), Counter[str](), iter(steps)

    def wait(_: float) -> bool:
        step = next(turns, None)
        if step is not None:
            step()
        return step is None

    for part in StreamFolder.of(spec_of(), UPath(root / "examples")).follow(Position(), wait):
        items += part.rows["item"].to_pylist()
        quarantined += Counter(part.quarantined)
    return items, quarantined


def test_why_a_journal_waits_is_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    held = journal(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("ml.parquet.write_table", failing(errno.EIO))
        for item in (1, 2, 3):
            held.append({"examples": [{"item": item}]}, now=END)
            held.rotate(at_once=True)
            assert held.waiting == {"examples": item}
    assert caplog.text.count("not published yet: [Errno 5] Input/output error") == 1
    held.rotate()
    assert held.waiting == {"examples": 0} and len(published(tmp_path)) == 3


def test_an_older_journal_that_waits_for_the_disk_is_published_before_newer_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, full = journal(tmp_path), list[str]()

    def store(item: int) -> None:
        held.append({"examples": [{"item": item}]}, now=END - 100 + item)
        if item == 1:
            full.extend(path.stem.rpartition("-")[2] for path in (tmp_path / JOURNAL).iterdir())
        held.rotate(at_once=True)

    def write(rows: pa.Table, path: str) -> None:
        if any(number in path for number in full):
            raise OSError(errno.ENOSPC, "No space left on device")
        write_table(rows, path)

    monkeypatch.setattr("ml.parquet.write_table", write)
    steps = [partial(store, 1), partial(store, 2), full.clear, held.rotate]
    assert followed(tmp_path, *steps) == ([1, 2], Counter())


@pytest.mark.parametrize(("restarted", "deleted"), [(False, False), (True, False), (True, True)])
def test_a_clock_that_is_set_back_leaves_events_readable(
    restarted: bool, deleted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = journal(tmp_path)

    def store(item: int) -> None:
        for read in (tmp_path / "examples").glob("*.parquet"):
            if deleted:
                read.unlink()
        monkeypatch.setattr("ml.serving.journal_publisher.time.time_ns", lambda: 10**18 - item)
        own = journal(tmp_path) if restarted else held
        own.append({"examples": [{"item": item}]}, now=END - 100 + item)
        own.rotate(at_once=True)

    assert followed(tmp_path, *(partial(store, item) for item in (1, 2, 3))) == ([1, 2, 3], Counter())


@pytest.mark.parametrize(
    "line",
    [
        b'{"event_time": 5, "gone": 2}',
        b"{",
        b"[]",
        b'{"event_time": 5, "item": "five"}',
        b"\xff",
        pytest.param(b"[" * 100_000, id="too deep"),
    ],
)
def test_a_journal_that_is_not_of_the_entry_is_set_aside(line: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    held = journal(tmp_path)
    left = tmp_path / JOURNAL / f"examples-{5:020d}.jsonl"
    left.write_bytes(line + b"\n")
    held = journal(tmp_path)
    aside = left.with_suffix(".refused")
    assert aside.read_bytes() == line + b"\n" and str(aside) in caplog.text and f"rename the file to {left.name}" in caplog.text

    def store() -> None:
        held.append({"examples": [{"item": 1}]}, now=END - 1)
        held.rotate(at_once=True)

    def restore() -> None:
        aside.unlink()
        left.write_bytes(json.dumps({"event_time": END - 1, "item": 2}).encode() + b"\n")
        held.rotate()

    assert followed(tmp_path, store, restore) == ([1, 2], Counter())
    assert held.is_published


def test_a_restored_journal_from_before_deleted_files_is_read(tmp_path: Path) -> None:
    old = tmp_path / JOURNAL / f"examples-{5:020d}.jsonl"

    def store() -> None:
        held = journal(tmp_path)
        held.append({"examples": [{"item": 1}]}, now=END - 1)
        held.rotate(at_once=True)

    def restore() -> None:
        [read] = (tmp_path / "examples").glob("*.parquet")
        read.unlink()
        old.write_bytes(json.dumps({"event_time": END - 1, "item": 2}).encode() + b"\n")
        journal(tmp_path)

    assert followed(tmp_path, store, restore) == ([1, 2], Counter())


def test_the_new_name_of_a_journal_is_on_disk_before_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = journal(tmp_path)
    held.append({"examples": [{"item": 1}]}, now=END - 1)
    held.rotate(at_once=True)
    (tmp_path / JOURNAL / f"examples-{5:020d}.jsonl").write_bytes(b'{"event_time": 5, "item": 2}\n')
    durable = set[str]()

    def noting(path: Path) -> None:
        fsync(path)
        if path.is_dir():
            durable.clear()
            durable.update(own.stem.rpartition("-")[2] for own in path.glob("*.jsonl"))

    def write(rows: pa.Table, path: str) -> None:
        [number] = durable
        assert number in path
        write_table(rows, path)

    monkeypatch.setattr("ml.serving.journal_publisher.fsync", noting)
    monkeypatch.setattr("ml.parquet.write_table", write)
    held.rotate()
    assert [row["item"] for row in published(tmp_path)] == [1, 2]


def test_events_after_a_restored_journal_from_before_a_clock_was_set_back_are_read(tmp_path: Path) -> None:
    held = journal(tmp_path)

    def restore() -> None:
        restored = tmp_path / JOURNAL / f"examples-{4 * 10**18:020d}.jsonl"
        restored.write_bytes(json.dumps({"event_time": END - 1, "item": 1}).encode() + b"\n")
        held.rotate()

    def store() -> None:
        held.append({"examples": [{"item": 2}]}, now=END - 1)
        held.rotate(at_once=True)

    assert followed(tmp_path, restore, store) == ([1, 2], Counter())


def test_a_journal_of_a_log_that_the_entry_no_longer_has_is_set_aside(tmp_path: Path) -> None:
    held = Journal(feed(), UPath(tmp_path))
    held.append({"actions": [{"request": "r", "item": 5}]}, now=END)
    journal(tmp_path)
    [aside] = (tmp_path / JOURNAL).iterdir()
    assert aside.suffix == ".refused" and json.loads(aside.read_text())["request"] == "r"


def test_lines_are_json(tmp_path: Path) -> None:
    held = journal(tmp_path)
    held.append({"examples": [{"place": 'a "b"\n'}]}, now=END)
    [file] = (tmp_path / JOURNAL).iterdir()
    assert json.loads(file.read_text())["place"] == 'a "b"\n'
