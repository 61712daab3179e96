"""The service as a process of its own that is killed again and again while four workers use it over HTTP."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from sigopt.exception import ApiException

from ml.http.server import listen
from ml.trials.connection import TOKEN, Service
from tests.helpers.paths import ROOT
from tests.helpers.trials import SEED, TRIALS
from tests.helpers.tuning import definition

KILLS, WORKERS = 4 * TRIALS, 4
BUDGET = 40 * KILLS
SECONDS_TO_START = 60.0


class Server:
    """The program on one port and one database."""

    def __init__(self, folder: Path) -> None:
        with listen() as free:
            self.port = free.getsockname()[1]
        self.url, self.token = f"http://127.0.0.1:{self.port}", folder / "token"
        files = ["--database", str(folder / "tuning.db"), "--token-file", str(self.token)]
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
def started(folder: Path) -> Iterator[Server]:
    server = Server(folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()


def work(connect: Callable[[], Any], identity: str, acknowledged: dict[str, float]) -> None:
    """Try suggestions until no budget is left, and record each observation that the service has acknowledged."""
    tuned = connect().experiments(identity)
    while tuned.fetch().progress.observation_count < BUDGET:
        try:
            suggestion = tuned.suggestions().create()
        except ApiException as error:
            if error.status_code != 409:
                raise
            time.sleep(0.05)
            continue
        value = suggestion.assignments["learning_rate"]
        time.sleep(0.05)
        tuned.observations().create(suggestion=suggestion.id, values=[{"name": "auc", "value": value}])
        acknowledged[suggestion.id] = value


@pytest.mark.slow
@pytest.mark.soak
def test_a_service_that_is_killed_loses_and_repeats_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw, acknowledged = random.Random(SEED), dict[str, float]()
    with started(tmp_path) as server:
        monkeypatch.setenv(TOKEN, server.token.read_text().strip())
        service = Service("", server.url)
        experiments = service.connect().experiments()
        identity = experiments.create(**definition(type="random", observation_budget=BUDGET)).id
        workers = [
            threading.Thread(target=work, args=(lambda name=f"worker-{n}": service.connect(name), identity, acknowledged))
            for n in range(WORKERS)
        ]
        for worker in workers:
            worker.start()
        for _ in range(KILLS):
            time.sleep(draw.uniform(0.05, 0.4))
            assert all(worker.is_alive() for worker in workers)
            server.kill()
            server.start()
        for worker in workers:
            worker.join(120)
        assert not any(worker.is_alive() for worker in workers)
        tuned = service.connect().experiments(identity)
        observations = list(tuned.observations().fetch().iterate_pages())
        suggestions = list(tuned.suggestions().fetch().iterate_pages())
    assert len(observations) == len(suggestions) == BUDGET
    assert {one.suggestion: one.values[0].value for one in observations} == acknowledged
    assert len({str(one.assignments) for one in suggestions}) == BUDGET
