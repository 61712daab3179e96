"""Processes that are watched: killed ones are started again, and none is left at the end."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from orchestration.loop.processes import Process, Watcher


def server(tmp_path: Path, name: str = "server") -> Process:
    return Process(name, ("http.server", "0", "--bind", "127.0.0.1"), os.environ, tmp_path / f"{name}.log")


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def watch(watcher: Watcher, until, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end
        watcher.watch()
        time.sleep(0.02)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_is_killed_is_started_again(tmp_path: Path, how: signal.Signals) -> None:
    watcher = Watcher(tmp_path / "processes.json")
    one, other = server(tmp_path, "one"), server(tmp_path, "other")
    watcher.start(one, other)
    first, kept = one.pid, other.pid
    assert first and kept
    os.kill(first, how)
    watch(watcher, lambda: one.starts == 2)
    assert other.pid == kept and other.starts == 1 and watcher.restarts == {"one": 1, "other": 0}
    assert json.loads((tmp_path / "processes.json").read_text())["one"] == {"pid": one.pid, "starts": 2}
    watcher.stop()
    assert not lives(first) and not lives(kept)


def test_what_a_killed_process_has_started_ends_with_it(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid, flush=True)\ntime.sleep(600)\n"
    )
    process = Process("parent", ("parent",), os.environ | {"PYTHONPATH": str(tmp_path)}, tmp_path / "parent.log")
    watcher = Watcher(tmp_path / "processes.json")
    watcher.start(process)
    watch(watcher, lambda: (tmp_path / "parent.log").read_text().endswith("\n"))
    child = int((tmp_path / "parent.log").read_text())
    assert process.pid
    os.kill(process.pid, signal.SIGKILL)
    watch(watcher, lambda: process.starts == 2)
    # An orphan that has ended stays a zombie if this machine's first process does not reap it.
    stat = Path(f"/proc/{child}/stat")
    assert not stat.exists() or stat.read_text().split()[2] == "Z"
    watcher.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="counts starts in half a second")
def test_a_process_that_fails_at_once_is_not_started_all_the_time(tmp_path: Path) -> None:
    process = Process("failing", ("no_such_module",), os.environ, tmp_path / "failing.log")
    watcher = Watcher(tmp_path / "processes.json")
    watcher.start(process)
    watch(watcher, lambda: process.starts == 3)
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        watcher.watch()
    assert process.starts == 3
    watcher.stop()
    assert "No module named no_such_module" in (tmp_path / "failing.log").read_text()
