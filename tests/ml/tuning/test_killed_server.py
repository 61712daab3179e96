"""The service and its workers as processes of their own, which are killed again and again while they work over HTTP."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ml.trials.connection import TOKEN, Service
from tests.helpers.trials import SEED, TRIALS
from tests.helpers.tuning import definition, try_suggestions
from tests.helpers.tuning_process import SECONDS_TO_START, Server, started

KILLS, WORKERS = 4 * TRIALS, 4
BUDGET = 40 * KILLS
KILLED_BUDGET, TRIALS_PER_KILL, KILLS_PER_SERVER = 40 * TRIALS, 3, 4
FORKSERVER = multiprocessing.get_context("forkserver")


def work(connect: Callable[[], Any], identity: str, acknowledged: dict[str, float]) -> None:
    """Record each observation that the service has acknowledged."""
    try_suggestions(connect().experiments(identity), "learning_rate", 0.05, acknowledged.__setitem__)


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


class Worker:
    """A worker process, which writes each observation that the service has acknowledged into a file."""

    def __init__(self, server: Server, identity: str, name: str, folder: Path) -> None:
        self.file = folder / name
        self._arguments = self.file, server.url, server.token.read_text().strip(), identity, name
        self.file.touch()

    def start(self) -> None:
        self._process = FORKSERVER.Process(target=work_into, args=self._arguments)
        self._process.start()

    def kill(self) -> None:
        os.kill(self._process.pid or 0, signal.SIGKILL)
        self._process.join()

    def works(self) -> bool:
        return self._process.exitcode in (None, 0)

    def join(self) -> int | None:
        self._process.join(SECONDS_TO_START)
        return self._process.exitcode

    def acknowledged(self) -> dict[str, float]:
        lines = self.file.read_text().splitlines(keepends=True)
        return {line.split()[0]: float(line.split()[1]) for line in lines if line.endswith("\n")}


def work_into(file: Path, url: str, token: str, identity: str, name: str) -> None:
    """Write each observation that the service has acknowledged, in a process that can be killed at any moment."""
    os.environ[TOKEN] = token  # the server of forks keeps the environment of the test that started it
    with file.open("a", buffering=1) as acknowledged:

        def acknowledge(suggestion: str, value: float) -> None:
            acknowledged.write(f"{suggestion} {value!r}\n")

        try_suggestions(Service("", url).connect(name).experiments(identity), "learning_rate", 0.02, acknowledge)


@pytest.mark.slow
@pytest.mark.soak
def test_killed_workers_and_a_killed_service_use_the_budget_exactly(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every few trials a worker is killed, and with every fourth worker the service."""
    draw, killed, due = random.Random(SEED), 0, TRIALS_PER_KILL
    with started(tmp_path, address) as server:
        monkeypatch.setenv(TOKEN, server.token.read_text().strip())
        experiments = Service("", server.url).connect().experiments
        identity = experiments().create(**definition(type="random", observation_budget=KILLED_BUDGET)).id
        tuned = experiments(identity)
        workers = [Worker(server, identity, f"worker-{n}", tmp_path) for n in range(WORKERS)]
        for worker in workers:
            worker.start()
        while due < KILLED_BUDGET - WORKERS:
            if tuned.observations().fetch(limit=0).count < due:
                assert all(worker.works() for worker in workers)
                time.sleep(0.01)
                continue
            worker = draw.choice(workers)
            worker.kill()
            killed += 1
            if killed % KILLS_PER_SERVER == 0:
                server.kill()
                server.start()
            worker.start()
            due += TRIALS_PER_KILL
        assert [worker.join() for worker in workers] == [0] * WORKERS
        observations = list(tuned.observations().fetch().iterate_pages())
        suggestions = list(tuned.suggestions().fetch().iterate_pages())
    assert killed >= KILLED_BUDGET // TRIALS_PER_KILL - WORKERS
    assert len(observations) == len(suggestions) == KILLED_BUDGET
    assert len({str(one.assignments) for one in suggestions}) == KILLED_BUDGET
    stored = {one.suggestion: one.values[0].value for one in observations}
    acknowledged = {key: value for worker in workers for key, value in worker.acknowledged().items()}
    assert len(stored) == KILLED_BUDGET and acknowledged.items() <= stored.items()
    assert len(stored) - len(acknowledged) <= killed  # a killed worker can have reported one that it did not write down
