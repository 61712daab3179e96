"""The client of the service, against a real server."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest
from fastapi import Body

from ml.http.app import create_app
from ml.http.errors import error_response
from ml.http.server import serving
from ml.loop.client import ServiceClient, Unavailable


@pytest.fixture
def token(tmp_path: Path) -> Path:
    (tmp_path / "token").write_text("secret\n")
    return tmp_path / "token"


def app():
    made = create_app("Numbers", "secret")

    @made.post("/double")
    def double(body: dict = Body()) -> dict:  # noqa: B008
        return {"value": 2 * body["value"]}

    @made.get("/status/{status}")
    def refuse(status: int):
        return error_response(status, "the service is overloaded")

    return made


def test_answers_and_refusals(token: Path) -> None:
    with serving(app()) as url:
        client = ServiceClient(urlsplit(url).port or 0, token)
        assert [client.post("/double", {"value": n})["value"] for n in range(3)] == [0, 2, 4]
        for status in (429, 500, 503):
            with pytest.raises(Unavailable, match=f"status {status}: .*overloaded"):
                client.get(f"/status/{status}")
        with pytest.raises(ValueError, match="400"):
            client.get("/status/400")
        with pytest.raises(ValueError, match="404"):
            client.get("/nothing")
        assert client.post("/double", {"value": 9}) == {"value": 18}
        client.close()


def test_a_service_that_was_restarted_is_called_again(token: Path) -> None:
    with serving(app()) as url:
        port = urlsplit(url).port or 0
        client = ServiceClient(port, token)
        assert client.post("/double", {"value": 1}) == {"value": 2}
    with pytest.raises(Unavailable):
        client.post("/double", {"value": 1})
    with serving(app(), port=port):
        assert client.post("/double", {"value": 3}) == {"value": 6}


def test_without_a_token_the_service_has_not_started(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        ServiceClient(1, tmp_path / "token").get("/version")
