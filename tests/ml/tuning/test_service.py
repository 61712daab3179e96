from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
import sqlalchemy as sa

from ml.tuning import database as databases
from ml.tuning import schema
from ml.tuning.call import Caller
from ml.tuning.database import Database
from ml.tuning.definition import Assignments, Study
from ml.tuning.errors import ApiError
from ml.tuning.records import tokens
from ml.tuning.router import Route, Router
from ml.tuning.service import TuningService
from tests.helpers.tuning import connect, definition, refused, sqlite


def test_others_can_report_while_a_suggestion_is_computed(address: str) -> None:
    """An engine that waits for another call would never end if it held the database."""
    reported = threading.Event()

    def engine(study: Study) -> Assignments:
        assert reported.wait(30)
        return {"learning_rate": 0.01, "layers": 1, "interaction": "dcn"}

    service = TuningService(Database(address), engine=engine)
    tuned = connect(service).experiments(connect(service).experiments().create(**definition()).id)
    asking = threading.Thread(target=tuned.suggestions().create)
    asking.start()
    tuned.observations().create(assignments={"learning_rate": 0.1, "layers": 1, "interaction": "dcn"}, failed=True)
    reported.set()
    asking.join()
    assert tuned.suggestions().fetch().count == 1


def test_a_busy_database_asks_to_try_again(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases, "BUSY_SECONDS", 0.05)
    service = TuningService(Database(address))
    connection = connect(service)
    tuned = connection.experiments(connection.experiments().create(**definition()).id)
    with service.database.transaction() as database:
        database.execute(sa.select(schema.experiments).with_for_update())
        refused(lambda: tuned.update(name="renamed"), 429, "The database is busy; try again")
        assert connection.experiments().fetch().count == 1  # readers do not wait for writers


def test_an_unreachable_database_is_unavailable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Database, "_install", lambda self: None)
    unreachable = Database("postgresql://me:secret@127.0.0.1:1/tuning")
    refused(connect(TuningService(unreachable)).experiments().fetch, 503, "cannot reach its database")
    assert "127.0.0.1:1/tuning: the database is unavailable: " in caplog.text and "secret" not in caplog.text
    (tmp_path / "tuning.db").mkdir()  # SQLite cannot open a folder
    folder = Database(f"sqlite:///{tmp_path}/tuning.db")
    refused(connect(TuningService(folder)).experiments().fetch, 503, "cannot reach its database")


def test_more_threads_than_connections_ask_to_try_again(postgres_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases, "BUSY_SECONDS", 0.05)
    monkeypatch.setattr(databases, "MAX_CONNECTIONS", 5)
    database = Database(postgres_address)
    with ExitStack() as stack, pytest.raises(ApiError, match="The database is busy"):
        for _ in range(6):
            stack.enter_context(database.transaction())


def test_an_experiment_that_keeps_changing_asks_to_try_again(tmp_path: Path) -> None:
    service = TuningService(Database(sqlite(tmp_path)))
    tuned = connect(service).experiments(connect(service).experiments().create(**definition()).id)
    chosen = {"learning_rate": 0.01, "layers": 1, "interaction": "dcn"}

    def engine(study: Study) -> Assignments:
        tuned.suggestions().create(assignments=chosen)
        return chosen

    slow = connect(TuningService(service.database, engine=engine)).experiments(1)
    refused(slow.suggestions().create, 429, "Other workers changed the experiment")


def test_fixed_parts_of_a_path_come_before_placeholders() -> None:
    router = Router([Route("GET", "a/{b}", lambda call: None), Route("GET", "a/self", lambda call: None)])
    assert router.find("GET", ["a", "self"])[0].path == "a/self"
    assert router.find("GET", ["a", "x"])[1] == {"b": "x"}
    with pytest.raises(ApiError, match="/v1/a/x accepts GET, not PUT"):
        router.find("PUT", ["a", "x"])


@pytest.mark.parametrize("worker", ["a\0b", "\0", "\ud800", "", "x" * 101])
def test_names_of_workers_that_no_database_can_store_are_refused(service: TuningService, worker: str) -> None:
    service.handle("POST", ["experiments"], definition())
    path = ["experiments", "1", "suggestions"]
    with pytest.raises(ApiError) as refusal:
        service.handle("POST", path, {}, Caller(worker=worker))
    assert refusal.value.status == 400 and refusal.value.message.startswith("worker: ")
    with service.database.transaction() as connection:
        tokens.ensure(connection, "secret", 0)
    if worker:
        for name, header in ((f"secret@{worker}", None), ("secret", worker)):
            with pytest.raises(ApiError) as refusal:
                service.authenticate(name, header)
            assert refusal.value.status == 400
    with pytest.raises(ApiError) as refusal:
        service.authenticate(f"{worker[:2]}\0")
    assert refusal.value.status == 401


@pytest.mark.parametrize("key", ["parallel_bandwidth", "observation_budget", "num_solutions"])
def test_numbers_that_a_column_cannot_hold_are_refused(service: TuningService, key: str) -> None:
    body = definition(**{"observation_budget": 2**40, key: 2**40})
    if key == "observation_budget":
        assert (service.handle("POST", ["experiments"], body) or {})[key] == 2**40
        return
    with pytest.raises(ApiError, match=f"^{key}: must be at most 2147483647") as refusal:
        service.handle("POST", ["experiments"], body)
    assert refusal.value.status == 400
