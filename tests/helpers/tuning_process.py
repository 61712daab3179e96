"""The tuning service as a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

from ml.http.server import listen
from tests.helpers.paths import ROOT

SECONDS_TO_START = 240.0


class Server:
    """The program on one port and one database."""

    def __init__(self, folder: Path, database: str | None = None) -> None:
        with listen() as free:
            self.port = free.getsockname()[1]
        self.url, self.token = f"http://127.0.0.1:{self.port}", folder / "token"
        files = ["--database", database or str(folder / "tuning.db"), "--token-file", str(self.token)]
        self._command = [sys.executable, "-m", "ml.tuning.server", "--port", str(self.port), *files]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, env=environment, cwd=ROOT)
        deadline = time.monotonic() + SECONDS_TO_START
        while time.monotonic() < deadline:
            try:
                requests.get(f"{self.url}/health", timeout=5).raise_for_status()
                return
            except requests.RequestException:
                time.sleep(0.05)
        raise TimeoutError("the service did not start")

    def kill(self) -> None:
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@contextmanager
def started(folder: Path, database: str | None = None) -> Iterator[Server]:
    server = Server(folder, database)
    try:
        server.start()
        yield server
    finally:
        server.kill()
