"""A join that is killed at random moments and started again writes the files of an undisturbed one."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from upath import UPath

from ml.joiner.joining import Joining
from ml.joiner.service import run_to_end
from ml.joiner.status import StreamStatus
from tests.helpers.joined_logs import arriving, drawn, feed
from tests.helpers.stream_runs import written_files
from tests.helpers.trials import seeds

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

KILLS = 2
DEADLINE_SECONDS = 240


def run_and_kill(root: Path, batches: int, delay: float) -> bool:
    """Starts the join and kills it some seconds after a number of further batches. Returns whether it had ended before."""
    before = StreamStatus.read(UPath(root / "joiner"))
    first = before.batch + 1 if before else 0
    process = subprocess.Popen([sys.executable, "-m", "tests.helpers.joiner_process", str(root)], start_new_session=True)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        status = StreamStatus.read(UPath(root / "joiner"))
        if status and status.batch >= first + batches:
            break
        time.sleep(0.05)
    time.sleep(delay)
    ended = process.poll() is not None
    os.killpg(process.pid, signal.SIGKILL) if not ended else None
    process.wait()
    return ended


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", seeds(1))
def test_killed_joins_write_the_same_files(seed: int, tmp_path: Path, spark: SparkSession) -> None:
    draw = random.Random(seed)
    impressions, actions = drawn(draw, 600, 900)
    arriving(tmp_path / "killed", impressions, actions, draw, files=8, late=10)
    (tmp_path / "killed" / "impressions" / "0003b.jsonl").write_text('{"torn": ')
    for side in ("impressions", "actions"):
        (tmp_path / "calm" / side).mkdir(parents=True)
        for file in (tmp_path / "killed" / side).iterdir():
            os.link(file, tmp_path / "calm" / side / file.name)
    for _ in range(KILLS):
        run_and_kill(tmp_path / "killed", draw.randrange(3), draw.random() * 3)
    settings = {"ends": True, "batch_bytes": 1, "every_seconds": 0.0}
    killed = run_to_end(Joining(feed(), UPath(tmp_path / "killed"), **settings), spark)
    calm = run_to_end(Joining(feed(), UPath(tmp_path / "calm"), **settings), spark)
    assert killed and calm and killed.counts == calm.counts and killed.batch == calm.batch
    assert written_files(tmp_path / "killed") == written_files(tmp_path / "calm")
    assert not (tmp_path / "killed" / "joiner" / "spool").exists(), "files of tasks are left"
    records = [(tmp_path / name / "joiner" / "read.jsonl").read_text().splitlines() for name in ("killed", "calm")]
    assert list(dict.fromkeys(records[0])) == records[1], "a repeated batch records the same files"
