"""`make join`: prints its progress, ends cleanly on Ctrl-C, continues there, and feeds the stream of `make online`."""

from __future__ import annotations

import io
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import click
import pytest
import yaml
from rich.console import Console
from upath import UPath

from ml.joiner.lock import only_join
from ml.joiner.status import StreamStatus
from ml.online.stream import Position
from orchestration.arriving import stream_of
from orchestration.join import HEADER, join_stream, line, main, summary
from tests.helpers.joined_logs import arriving, drawn, feed, feed_entry

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def status(**changes: object) -> StreamStatus:
    counts = {
        "impressions": 1000,
        "actions": 50,
        "examples": 900,
        "action: matched": 30,
        "action: late": 10,
        "late actions": 2,
        "quarantined: bad JSON": 5,
    }
    found = {"batch": 3, "written_at": 0.0, "files": {}, "newest": {"impressions": 9_000_000_000, "actions": 0}}
    found |= {"watermark": 0, "state_rows": 77, "state_bytes": 5_000_000, "counts": counts}
    return StreamStatus(**{**found, **changes})  # type: ignore[arg-type]


def test_a_line_has_the_columns_of_the_header() -> None:
    assert line(status()).split() == ["1970-01-01", "00:00", "3", "1,050", "900", "0.7500", "0", "12", "5", "77", "5.0", "150"]
    assert line(status(watermark=-1, counts={})).split()[0] == "–"
    assert len(line(status())) == len(HEADER)


def test_a_dataset_of_one_log_is_refused(home: Path) -> None:
    with pytest.raises(click.ClickException, match="synthetic has one log"):
        main.callback("synthetic", False)  # type: ignore[misc]
    (home / "catalog" / "feed.yaml").write_text(yaml.safe_dump(feed_entry(), sort_keys=False))
    with pytest.raises(click.ClickException, match="joining a stream needs Spark; unset EVERGREEN_SPARK_MASTER"):
        main.callback("feed", False)  # type: ignore[misc]


def test_a_stream_that_another_process_joins_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVERGREEN_SPARK_MASTER")
    (home / "catalog" / "feed.yaml").write_text(yaml.safe_dump(feed_entry(), sort_keys=False))
    root = home / "stream" / "feed"
    with only_join(UPath(root)), pytest.raises(click.ClickException, match=f"another process joins the stream {root}; stop it"):
        main.callback("feed", False)  # type: ignore[misc]
    assert not (root / "joiner").exists()


def test_a_run_says_in_one_line_what_it_has_done() -> None:
    later = status(batch=5, counts={"impressions": 1600, "actions": 90, "examples": 1400}, ended=True)
    assert summary(None, status(), False) == (
        "stopped: 4 batches, 1,050 events and 900 examples in this run; the same command continues there"
    )
    assert summary(status(), later, True) == (
        "2 batches, 640 events and 500 examples in this run; every event that has arrived is joined"
    )
    assert summary(None, None, True).startswith("stopped: 0 batches, 0 events and 0 examples in this run")


@dataclass
class Query:
    """A query of Spark that says what a test needs, and whose batch in progress never ends.

    Attributes:
        signals: Number of Ctrl-C while it is looked at for the first time.
        error: The error with which it has failed.
    """

    signals: int = 0
    error: Exception | None = None

    @property
    def isActive(self) -> bool:
        for _ in range(self.signals):
            signal.raise_signal(signal.SIGINT)
        self.signals = 0
        return self.error is None

    status: ClassVar = {"isTriggerActive": True, "message": "Processing new data"}

    def exception(self) -> Exception | None:
        return self.error

    def stop(self) -> None:
        self.error = self.error or RuntimeError("the batch was interrupted")


@pytest.fixture
def joined_by(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Query, Query], str]:
    """Return a function that runs `join_stream` with a simulated query of the join and one of Kafka, and returns its output."""

    def run(query: Query, intake: Query) -> str:
        topics = {"servers": "one:9092", "impressions": "feed.shown", "actions": "feed.done"}
        monkeypatch.setattr("ml.compute.spark.start_session", lambda: None)
        monkeypatch.setattr("ml.joiner.kafka.read_kafka", lambda *_: None)
        monkeypatch.setattr("ml.joiner.kafka.start_intake", lambda *_: intake)
        monkeypatch.setattr("ml.joiner.service.start_join", lambda *_, **__: query)
        text = io.StringIO()
        (tmp_path / "joiner").mkdir()
        join_stream(feed(actions={"kafka": topics}), UPath(tmp_path), False, Console(file=text, width=200))
        return text.getvalue()

    return run


def test_a_second_ctrl_c_interrupts_the_batch_although_the_first_was_not_seen_yet(joined_by: Callable[..., str]) -> None:
    assert "stopped: 0 batches" in joined_by(Query(signals=2), Query())


def test_a_failed_batch_is_reported_although_ctrl_c_ends_the_wait_for_kafka(joined_by: Callable[..., str]) -> None:
    with pytest.raises(click.ClickException, match="feed: a batch failed; the same command repeats it: no file"):
        joined_by(Query(error=FileNotFoundError("no file")), Query(signals=1))


@pytest.mark.slow
@pytest.mark.parametrize(("said", "batches"), [("joined until", "01"), ("\n2026-", "1")])
def test_ctrl_c_ends_a_process_without_a_traceback(
    home: Path, said: str, batches: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes while the query starts, before or in its first batch, and when a batch has been written."""
    monkeypatch.setenv("EVERGREEN_SPARK_MASTER", "local[2]")
    (home / "catalog" / "feed.yaml").write_text(yaml.safe_dump(feed_entry(), sort_keys=False))
    arriving(home / "stream" / "feed", *drawn(random.Random(3), 200, 300), random.Random(4), files=3)
    command = [sys.executable, "-m", "orchestration.join", "feed"]
    with (home / "output.txt").open("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        deadline = time.monotonic() + 240
        while said not in (home / "output.txt").read_text() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.1)
        time.sleep(0.3)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to Spark's processes too
        assert process.wait(240) == 0
    lines = (home / "output.txt").read_text().splitlines()
    assert not [line for line in lines if "Traceback" in line or "Error" in line or "Exception" in line], lines
    assert not [line for line in lines if "TransformWithState" in line]
    assert re.match(rf"stopped: [{batches}] batches", lines[-1]), lines[-1]
    assert lines[-1].endswith("the same command continues there")
    resumed = subprocess.run([*command, "--ends"], capture_output=True, text=True, timeout=240)
    assert resumed.returncode == 0 and resumed.stdout.endswith("every event that has arrived is joined\n")


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
    try:
        join_stream(spec, UPath(root), False, Console(file=text, width=200))
    finally:
        ended.set()
        thread.join()
    assert HEADER.split()[0] in text.getvalue() and "the same command continues" in text.getvalue()
    join_stream(spec, UPath(root), True, Console(file=text, width=200))
    assert text.getvalue().endswith("every event that has arrived is joined\n")
    stream = stream_of(spec)
    assert stream is not None
    rows = sum(len(part.rows) for part in stream.read(Position()))
    done = StreamStatus.read(UPath(root / "joiner"))
    assert done and rows == done.counts["examples"] > 100
