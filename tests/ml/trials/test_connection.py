"""Connections of trials to a tuning service that fails."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sigopt.exception import ConnectionException

from ml.trials.connection import TOKEN, Service

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
