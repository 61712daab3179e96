"""A stream that makes no progress is reported with the reason."""

from __future__ import annotations

import os
import time
from pathlib import Path

from upath import UPath

from ml.joiner.read_files import ReadFiles, record
from ml.joiner.status import StreamStatus, next_totals
from ml.joiner.stream_faults import stuck

LATENESS = 600_000_000
NOW = time.time()


def put(root: Path, name: str, age: float) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    os.utime(path, (NOW - age, NOW - age))


def were_read(root: Path) -> None:
    (root / "joiner").mkdir(exist_ok=True)
    record(UPath(root / "joiner"), {side: [("2.jsonl", 0)] for side in ("impressions", "actions")})


def status(age: float, **changes: object) -> StreamStatus:
    files = {"impressions": "2.jsonl", "actions": "2.jsonl"}
    found = {"batch": 3, "written_at": NOW - age, "files": files, "newest": {"impressions": 9_000_000, "actions": 5_000_000}}
    found |= {"watermark": 3_000_000, "state_rows": 1, "state_bytes": 1, "counts": {"examples": 7}, "before": {"examples": 4}}
    return StreamStatus(**{**found, **changes})  # type: ignore[arg-type]


def test_a_stream_that_is_read_is_not_stuck(tmp_path: Path) -> None:
    assert stuck(UPath(tmp_path), None, LATENESS, NOW) == {}
    put(tmp_path, "impressions/2.jsonl", 20)
    put(tmp_path, "actions/2.jsonl", 500)
    were_read(tmp_path)
    assert stuck(UPath(tmp_path), status(10), LATENESS, NOW) == {}
    put(tmp_path, "impressions/3.jsonl", 20)
    assert stuck(UPath(tmp_path), status(1000), LATENESS, NOW) == {}


def test_files_that_are_not_read_are_reported(tmp_path: Path) -> None:
    put(tmp_path, "impressions/3.jsonl", 400)
    put(tmp_path, "actions/2.jsonl", 500)
    were_read(tmp_path)
    (reason,) = stuck(UPath(tmp_path), status(1000), LATENESS, NOW).values()
    assert reason.startswith("impressions/3.jsonl has not been read for 400 s")
    (tmp_path / "joiner" / "read.jsonl").unlink()
    assert any("actions/2.jsonl" in reason for reason in stuck(UPath(tmp_path), None, LATENESS, NOW).values())
    (tmp_path / "actions" / "0.jsonl").symlink_to(tmp_path / "nothing")
    assert "actions/2.jsonl" in stuck(UPath(tmp_path), None, LATENESS, NOW)["actions unread"], "a link to nothing is no file"


def test_a_log_that_falls_silent_is_reported(tmp_path: Path) -> None:
    put(tmp_path, "impressions/2.jsonl", 1)
    were_read(tmp_path)
    (reason,) = stuck(UPath(tmp_path), status(1), LATENESS, NOW).values()
    assert reason.startswith("actions: no file has arrived, although the other log continues")
    put(tmp_path, "actions/2.jsonl", 700)
    (reason,) = stuck(UPath(tmp_path), status(1), LATENESS, NOW).values()
    assert reason.startswith("actions: no file has arrived for 700 s")


def test_a_line_that_a_killed_process_did_not_finish_is_ignored(tmp_path: Path) -> None:
    record(UPath(tmp_path), {"impressions": [("1", 5)], "actions": []})
    with (tmp_path / "read.jsonl").open("a") as file:
        file.write('{"impressions": [["2", ')
    assert ReadFiles.load(UPath(tmp_path)).sizes == {"impressions": {"1": 5}, "actions": {}}
    record(UPath(tmp_path), {"impressions": [("2", 6)], "actions": [("1", 7)]})
    record(UPath(tmp_path), {"impressions": [], "actions": []})
    assert ReadFiles.load(UPath(tmp_path)).sizes == {"impressions": {"1": 5, "2": 6}, "actions": {"1": 7}}


def test_a_repeated_batch_is_not_counted_twice(tmp_path: Path) -> None:
    status(1).write(UPath(tmp_path))
    read = StreamStatus.read(UPath(tmp_path))
    assert read == status(1) and StreamStatus.read(UPath(tmp_path / "none")) is None
    assert next_totals(read, 4) == {"examples": 7} and next_totals(read, 3) == {"examples": 4} and next_totals(None, 0) == {}
    assert status(1).watermark_lag == 6.0
    assert status(1, counts={"action: matched": 3, "action: late": 1, "late actions": 2}).late == 3
