"""The check of a live stream passes without a stream, and reports one that is stuck or late."""

from __future__ import annotations

import os
import time
from pathlib import Path

import dagster as dg
import pytest
from upath import UPath

from assets.joiner_checks import build_stream_check
from assets.resources import StreamsResource
from ml.joiner.read_files import record
from ml.joiner.status import StreamStatus
from tests.helpers.joined_logs import feed

FILES = {"impressions": "1.jsonl", "actions": "1.jsonl"}


def run(home: Path) -> dg.AssetCheckResult:
    found = build_stream_check(feed())(streams=StreamsResource(root=str(home)))
    assert isinstance(found, dg.AssetCheckResult)
    return found


def store(home: Path, late: int = 0, read: dict[str, str] = FILES) -> None:
    for side in FILES:
        (home / "feed" / side).mkdir(parents=True)
        path = home / "feed" / side / "1.jsonl"
        path.write_text("")
        os.utime(path, (time.time() - 900,) * 2)
    (home / "feed" / "joiner").mkdir()
    record(UPath(home / "feed" / "joiner"), {side: [(name, 0)] if name else [] for side, name in read.items()})
    counts = {"impressions": 900, "actions": 100, "late actions": late}
    newest = {"impressions": 9_000_000, "actions": 9_000_000}
    StreamStatus(1, time.time() - 800, read, newest, 3_000_000, 10, 999, counts).write(UPath(home / "feed" / "joiner"))


def test_a_dataset_without_a_stream_passes(tmp_path: Path) -> None:
    assert run(tmp_path).passed


def test_a_stream_that_is_read_passes_and_shows_its_state(tmp_path: Path) -> None:
    store(tmp_path, late=10)
    found = run(tmp_path)
    assert found.passed and found.metadata["state_bytes"].value == 999 and found.metadata["late_share"].value == 0.01
    assert found.metadata["watermark_lag_seconds"].value == 6.0


@pytest.mark.parametrize(
    ("late", "read", "reason"),
    [(11, FILES, "11 events are late"), (0, {**FILES, "actions": ""}, "actions/1.jsonl has not been read for 8")],
)
def test_a_stream_that_is_late_or_stuck_fails(tmp_path: Path, late: int, read: dict[str, str], reason: str) -> None:
    store(tmp_path, late, read)
    found = run(tmp_path)
    assert not found.passed and reason in str(found.metadata["explanation"].value)
