"""A stream that starts again under another catalog entry: followers of its examples continue, and nothing is overwritten."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from upath import UPath

from ml.joiner.joining import ChangedEntry
from ml.online.stream import Position, StreamFolder
from tests.helpers.joined_logs import feed
from tests.helpers.stream_runs import StreamRun, click, shown


def joined(root: Path, position: Position) -> tuple[list[str], Position]:
    """Requests of the examples that a follower reads from a position, and the position after them."""
    stream = StreamFolder(UPath(root / "examples"), feed().examples_log)
    found = [part for part in stream.read(position) if len(part.rows)]
    return [name for part in found for name in part.rows["request"].to_pylist()], found[-1].position


def test_followers_read_the_examples_of_a_stream_that_starts_again_under_another_entry(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = StreamRun(tmp_path, settings={"batch_bytes": 1})
    for n in range(4):
        first.put(f"impressions/{n}.jsonl", shown(f"r{n}", 200 * n))
        first.put(f"actions/{n}.jsonl", click(f"r{n}", 200 * n + 1), click("nothing", 200 * n))
    first.end()
    assert first.status.batch > 2
    requests, position = joined(tmp_path, Position())
    assert requests == ["r0", "r1", "r2", "r3"] and "earlier start" not in caplog.text
    before = {path: path.read_bytes() for name in ("examples", "unmatched") for path in (tmp_path / name).iterdir()}

    changed = feed(actions={"lateness_minutes": 20})
    with pytest.raises(ChangedEntry, match=r"joined again; then delete .*joiner, and start the stream again"):
        StreamRun(tmp_path, changed)
    for side in ("impressions", "actions", "joiner"):
        shutil.rmtree(tmp_path / side)
    second = StreamRun(tmp_path, changed)
    second.put("impressions/9.jsonl", shown("r9", 900))
    second.put("actions/9.jsonl", click("r9", 901), click("nothing", 900))
    second.end()
    assert joined(tmp_path, position)[0] == ["r9"] and "has examples of an earlier start" in caplog.text
    assert all(path.read_bytes() == data for path, data in before.items())
    assert len(second.rows("unmatched")) == 5


def test_names_follow_those_of_an_earlier_start_whose_clock_was_ahead(tmp_path: Path) -> None:
    examples = tmp_path / "examples"
    examples.mkdir()
    before = "29990101T000000000000-000000000007-0000.parquet"
    (examples / before).write_bytes(b"")
    stream = StreamRun(tmp_path)
    stream.put("impressions/0.jsonl", shown("r0", 0))
    stream.end()
    names = sorted(path.name for path in examples.iterdir())
    assert len(names) > 1 and names[0] == before


def test_a_stream_without_the_time_of_its_start_keeps_its_names(tmp_path: Path) -> None:
    stream = StreamRun(tmp_path)
    layout = tmp_path / "joiner" / "layout.json"
    layout.write_text(json.dumps({key: value for key, value in json.loads(layout.read_text()).items() if key != "started"}))
    stream.restart()
    stream.put("impressions/0.jsonl", shown("r0", 0))
    stream.end()
    assert [path.name for path in (tmp_path / "examples").iterdir()] == [f"{stream.status.batch:012d}-0000.parquet"]
