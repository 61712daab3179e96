"""Workers that race, die and come back, as processes of their own on one database."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

import pytest
import sqlalchemy as sa
from sigopt.exception import ApiException

from ml.tuning import schema
from ml.tuning.database import Database
from ml.tuning.definition import Assignments, Study
from ml.tuning.leases import Leases
from ml.tuning.service import TuningService
from tests.helpers.tuning import connect, definition, try_suggestions

SPAWN = multiprocessing.get_context("spawn")
BEAT = 0.5
LEASES = Leases(beat=BEAT, lease=3 * BEAT)


def loop(address: str, identity: str, name: str | None, pause: float = 0.0) -> None:
    """Try suggestions until the budget is used up, as a worker does."""
    tuned = connect(TuningService(Database(address), leases=LEASES), worker=name).experiments(identity)
    try_suggestions(tuned, "layers", pause)


def start(target: Callable[..., None], *arguments: Any) -> BaseProcess:
    process = SPAWN.Process(target=target, args=arguments)
    process.start()
    return process


def create(address: str, budget: int) -> tuple[Any, str]:
    connection = connect(TuningService(Database(address), leases=LEASES))
    identity = connection.experiments().create(**definition(type="random", observation_budget=budget)).id
    return connection.experiments(identity), identity


def assert_exact(tuned: Any, budget: int) -> None:
    observations = list(tuned.observations().fetch().iterate_pages())
    assert len(observations) == budget
    assert len({one.suggestion for one in observations}) == budget
    assert len({str(one.assignments) for one in observations}) == budget


@pytest.mark.slow
def test_racing_workers_use_the_budget_exactly(address: str) -> None:
    tuned, identity = create(address, 12)
    workers = [start(loop, address, identity, f"worker-{index}") for index in range(4)]
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert_exact(tuned, 12)
    assert tuned.suggestions().fetch().count == 12


def wait_for_suggestion(tuned: Any, name: str) -> None:
    """Wait until a worker has an open suggestion."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if any(one.to_json()["lease"]["worker"] == name for one in tuned.suggestions().fetch(state="open").iterate_pages()):
            return
        time.sleep(0.01)
    raise TimeoutError(f"worker {name} has asked for no suggestion")


@pytest.mark.slow
def test_workers_that_are_killed_return_their_budget(address: str) -> None:
    tuned, identity = create(address, 40)
    workers = {name: start(loop, address, identity, name, 0.1) for name in ("a", "b", "c")}
    workers["d"] = start(loop, address, identity, "d", 60)  # holds a suggestion and never comes back
    for name in ("d", "a", "b", "a"):
        wait_for_suggestion(tuned, name)
        victim = workers.pop(name)
        os.kill(victim.pid or 0, signal.SIGKILL)
        victim.join()
        if name != "d":
            workers[name] = start(loop, address, identity, name, 0.1)
    for worker in workers.values():
        worker.join(120)
    assert [worker.exitcode for worker in workers.values()] == [0] * 3
    assert_exact(tuned, 40)


def report(address: str, identity: str, acknowledged: Any) -> None:
    """Report observations until killed, and count those that the service has acknowledged."""
    tuned = connect(TuningService(Database(address))).experiments(identity)
    chosen = {"learning_rate": 0.01, "layers": 3, "interaction": "dcn"}
    while True:
        tuned.observations().create(assignments=chosen, values=[{"name": "auc", "value": 0.5}])
        acknowledged.value += 1


@pytest.mark.slow
def test_no_acknowledged_observation_is_lost_when_processes_are_killed(address: str) -> None:
    tuned, identity = create(address, 1000)
    counts = [SPAWN.Value("i", 0, lock=False) for _ in range(2)]
    for _ in range(3):
        workers = [start(report, address, identity, count) for count in counts]
        before = [count.value for count in counts]
        deadline = time.monotonic() + 60
        while any(count.value < seen + 5 for count, seen in zip(counts, before, strict=True)) and time.monotonic() < deadline:
            time.sleep(0.01)
        for worker in workers:
            os.kill(worker.pid or 0, signal.SIGKILL)
            worker.join()
    stored, acknowledged = tuned.observations().fetch(limit=0).count, sum(count.value for count in counts)
    assert acknowledged >= 30
    assert acknowledged <= stored <= acknowledged + 6  # a killed process can have stored one that it did not count
    Database(address)  # can still be opened
    if "://" not in address:
        with Database(address).transaction() as connection:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"


def test_a_report_that_is_rolled_back_leaves_the_suggestion_open(address: str) -> None:
    service = TuningService(Database(address))
    tuned = connect(service).experiments(connect(service).experiments().create(**definition()).id)
    suggestion = tuned.suggestions().create()
    with pytest.raises(RuntimeError), service.database.transaction() as connection:
        connection.execute(schema.suggestions.update().values(state="closed"))
        connection.execute(
            schema.observations.insert().values(
                experiment=1, suggestion=1, assignments={}, values={}, failed=True, deleted=False, created=0
            )
        )
        raise RuntimeError("the process died")
    assert tuned.suggestions(suggestion.id).fetch().state == "open"
    assert tuned.observations().create(suggestion=suggestion.id, failed=True).suggestion == suggestion.id


def test_the_same_point_is_not_given_to_two_callers_at_once(address: str) -> None:
    """Another service suggests the very point that this one has just computed, before it is stored."""
    other = TuningService(Database(address), engine=_first_free)
    tuned = connect(other).experiments(connect(other).experiments().create(**definition()).id)
    seen: list[Study] = []

    def slow(study: Study) -> Assignments:
        seen.append(study)
        if len(seen) == 1:
            tuned.suggestions().create()
        return _first_free(study)

    service = TuningService(Database(address), engine=slow)
    served = connect(service).experiments(1).suggestions().create()
    assert [len(study.open) for study in seen] == [0, 1]
    assert served.assignments["layers"] == 2
    with service.database.transaction(write=False) as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(schema.suggestions)) == 2


def _first_free(study: Study) -> Assignments:
    return {"learning_rate": 0.01, "layers": 1 + len(study.open), "interaction": "dcn"}


def test_two_services_that_store_a_suggestion_at_the_same_moment(address: str) -> None:
    barrier = threading.Barrier(2)

    def together(study: Study) -> Assignments:
        barrier.wait(60)
        return {**_first_free(study), "learning_rate": 0.02 if threading.current_thread().name == "b" else 0.01}

    def ask(name: str, identity: str) -> None:
        service = TuningService(Database(address), engine=together)
        try:
            connect(service, worker=name).experiments(identity).suggestions().create()
        except ApiException as error:
            refusals.append(error.status_code)

    for _ in range(5):
        tuned, identity = create(address, 1)
        refusals: list[int] = []
        threads = [threading.Thread(target=ask, name=name, args=(name, identity)) for name in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert refusals == [409]
        assert tuned.suggestions().fetch().count == 1
