"""A stream that makes no progress is reported with the reason."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from upath import UPath

from ml.joiner.read_files import ReadFiles, record
from ml.joiner.status import StreamStatus, next_hourly_totals, next_totals
from ml.joiner.stream_faults import stream_faults, stuck
from tests.helpers.joined_logs import feed

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


def test_the_file_of_a_status_has_the_names_of_earlier_versions(tmp_path: Path) -> None:
    last = status(1, hourly_totals=[(5, {"examples": 2})])
    last.write(UPath(tmp_path))
    path = tmp_path / "status.json"
    stored = json.loads(path.read_text())
    assert list(stored)[-1] == "hours" and stored["hours"] == [[5, {"examples": 2}]]
    assert StreamStatus.read(UPath(tmp_path)) == last
    path.write_text(json.dumps({name: value for name, value in stored.items() if name not in ("hours", "ahead")}))
    assert StreamStatus.read(UPath(tmp_path)) == status(1), "of a version without the last hours"


def test_late_and_quarantined_events_are_judged_by_the_last_hours(tmp_path: Path) -> None:
    spec, hour = feed(), int(NOW // 3600)
    assert spec.expectations.quarantine_rate.max
    old = {"impressions": 90_000_000, "actions": 10_000_000}
    burst = old | {"actions": 11_000_000, "late actions": 900_000, "quarantined: bad JSON": 700_000}
    later = status(1, counts=burst, hourly_totals=[(hour, old)])
    assert later.late_share < 0.01 and later.recent.late_share == 0.9 and later.counts == burst
    found = stream_faults(spec, UPath(tmp_path), later, NOW)
    assert found["late"].startswith("900,000 events are late in the 24 hours before the last batch")
    assert found["quarantined"].startswith(
        "700,000 rows and files are in quarantine (41.2%) in the 24 hours before the last batch"
    )

    bad = {"impressions": 1000, "late impressions": 900, "quarantined: bad JSON": 800}
    recovered = status(1, counts=bad | {"impressions": 9000}, hourly_totals=[(hour, bad)])
    assert recovered.late_share > 0.01 and stream_faults(spec, UPath(tmp_path), recovered, NOW) == {}
    assert "late" in stream_faults(spec, UPath(tmp_path), status(1, counts=bad), NOW), "the first hours are judged too"


def test_the_last_hours_begin_with_the_totals_before_them(tmp_path: Path) -> None:
    last, started = None, 500_000
    for hour in (0, 0, 1, 5, 23, 24, 30, 100):
        total = last.counts["examples"] if last else 0
        hours = next_hourly_totals(last, {"examples": total}, (started + hour) * 3600 + 1800.0)
        status(1, counts={"examples": total + 1}, hourly_totals=hours).write(UPath(tmp_path))
        last = StreamStatus.read(UPath(tmp_path))
        assert last
        assert next_hourly_totals(last, {"examples": total}, (started + hour) * 3600 + 1900.0) == hours, "the batch is repeated"
        if hour == 23:
            assert last.hourly_totals == [(started + of, {"examples": n}) for of, n in ((0, 0), (1, 2), (5, 3), (23, 4))]
            assert last.recent.counts == {"examples": 5}
        if hour == 24:
            assert last.recent.counts == {"examples": 4}, "the batches of the first hour no longer count"
    assert last and last.recent.counts == {"examples": 1} and last.counts == {"examples": 8}
