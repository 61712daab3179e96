"""`make join`: prints its progress, ends cleanly on Ctrl-C, continues there, and feeds the stream of `make online`."""

from __future__ import annotations

import io
import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
from rich.console import Console
from upath import UPath

from ml.joiner.status import StreamStatus
from ml.online.stream import Position
from orchestration.arriving import stream_of
from orchestration.join import HEADER, join_stream, line, main
from tests.helpers.joined_logs import arriving, drawn, feed

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def status(**changes: object) -> StreamStatus:
    counts = {"impressions": 1000, "actions": 50, "examples": 900, "action: matched": 30, "action: late": 10, "late actions": 2}
    found = {"batch": 3, "written_at": 0.0, "files": {}, "newest": {"impressions": 9_000_000_000, "actions": 0}}
    found |= {"watermark": 0, "state_rows": 77, "state_bytes": 5_000_000, "counts": counts}
    return StreamStatus(**{**found, **changes})  # type: ignore[arg-type]


def test_a_line_has_the_columns_of_the_header() -> None:
    assert line(status()).split() == ["1970-01-01", "00:00", "3", "1,050", "900", "0.7500", "0", "12", "77", "5.0", "150"]
    assert line(status(watermark=-1, counts={})).split()[0] == "–"
    assert len(line(status())) == len(HEADER)


def test_a_dataset_of_one_log_is_refused(home: Path) -> None:
    with pytest.raises(click.ClickException, match="synthetic has one log"):
        main.callback("synthetic", False)  # type: ignore[misc]


@pytest.mark.slow
def test_ctrl_c_stops_and_the_same_command_continues(home: Path, spark: SparkSession) -> None:
    spec, root = feed(), home / "stream" / "feed"
    impressions, actions = drawn(random.Random(3), 200, 300)
    arriving(root, impressions, actions, random.Random(4), files=3)
    text, ended = io.StringIO(), threading.Event()

    def interrupt() -> None:
        while "2026-" not in text.getvalue() and not ended.wait(0.1):
            pass
        if not ended.is_set():
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    started = time.monotonic()
    try:
        join_stream(spec, UPath(root), False, Console(file=text, width=200))
    finally:
        ended.set()
        thread.join()
    assert HEADER.split()[0] in text.getvalue() and "the same command continues" in text.getvalue()
    assert time.monotonic() - started < 300
    join_stream(spec, UPath(root), True, Console(file=text, width=200))
    assert text.getvalue().endswith("every event that has arrived is joined\n")
    stream = stream_of(spec)
    assert stream is not None
    rows = sum(len(part.rows) for part in stream.read(Position()))
    done = StreamStatus.read(UPath(root / "joiner"))
    assert done and rows == done.counts["examples"] > 100
