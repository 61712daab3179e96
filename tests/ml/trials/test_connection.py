"""Connections of trials to a tuning service that fails."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sigopt.exception import ConnectionException

from ml.recipes.search import Search
from ml.trials.connection import TOKEN, Service
from ml.trials.experiment import experiment_of
from ml.tuning.database import Database
from ml.tuning.driver import Driver
from ml.tuning.errors import ApiError
from tests.helpers.training_days import small_recipe

ANSWER = json.dumps({"object": "suggestion", "id": "7"}).encode()


@contextmanager
def answering(*lengths: int) -> Iterator[str]:
    """Serve one request per length: announce the whole answer, send that many bytes of it, and close the connection."""

    def serve() -> None:
        for length in lengths:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(ANSWER)}\r\n\r\n"
                connection.sendall(head.encode() + ANSWER[:length])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN, "token")


def test_a_request_whose_answer_breaks_off_is_repeated() -> None:
    with answering(0, 10, len(ANSWER) - 1, len(ANSWER)) as url:
        assert Service("", url).connect().experiments("1").suggestions().create().id == "7"


def test_an_answer_that_breaks_off_is_an_error_of_the_connection() -> None:
    with answering(10) as url, pytest.raises(ConnectionException):
        Service("", url).connect(patience=0).experiments("1").suggestions().create()


def test_a_database_that_comes_back_is_connected_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ml.tuning import driver

    down, attempts = [ApiError(503, "down")] * 2, []

    class Starting(Database):
        def __init__(self, address: str) -> None:
            attempts.append(address)
            if down:
                raise down.pop()
            super().__init__(address)

    monkeypatch.setattr(driver, "Database", Starting)
    service = Service(str(tmp_path / "tuning.db"))
    assert service.connect().experiments().fetch().count == 0
    assert len(attempts) == 3
    down.append(ApiError(503, "down"))
    with pytest.raises(ApiError):
        service.connect(patience=0)


@pytest.mark.parametrize("scheduler", ["", "tcp://127.0.0.1:8786", "tcp://localhost:8786"])
def test_workers_of_this_machine_can_use_a_file(scheduler: str) -> None:
    Service("/home/evergreen/tuning.db").check_reach(scheduler)


def test_workers_of_other_machines_need_a_server() -> None:
    with pytest.raises(ValueError, match=r"tcp://10.0.0.5:8786.*EVERGREEN_TUNING_DB.*SIGOPT_API_URL"):
        Service("/home/evergreen/tuning.db").check_reach("tcp://10.0.0.5:8786")
    Service("postgresql://db/tuning").check_reach("tcp://10.0.0.5:8786")
    Service("/home/evergreen/tuning.db", "http://10.0.0.4:8714").check_reach("tcp://10.0.0.5:8786")


def test_a_queued_suggestion_whose_answer_was_lost_is_there_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = Driver.request
    lost: list[str] = []

    def lose_one(self: Driver, method: str, path: Sequence[object], data: Any, headers: Any) -> Any:
        found = answer(self, method, path, data, headers)
        if "queued_suggestions" in path and method.upper() == "POST" and not lost:
            lost.append("the first answer")
            raise ConnectionException("the service was killed")
        return found

    monkeypatch.setattr(Driver, "request", lose_one)
    connection, recipe = Service(str(tmp_path / "tuning.db")).connect(), small_recipe()
    seed = {"name": "seed", "key": "seed", "type": "int", "bounds": {"min": 0, "max": 9}}
    search = Search.model_validate({"parameters": [seed]})
    experiment = experiment_of(connection, search, recipe, "made", "made", {})
    assert lost and connection.experiments(experiment).queued_suggestions().fetch().count == 1
