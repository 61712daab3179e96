"""A real server on a free port: what it refuses, the shape of its errors, and how it stops."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
import requests
from fastapi import Body, FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.types import Message

from ml.http.app import create_app
from ml.http.guard import host_name
from ml.http.server import listen, serving, url_of
from tests.helpers.paths import ROOT

TOKEN = "secret"


def echo_app() -> FastAPI:
    app = create_app("Echo", TOKEN, body_limit=1000)

    @app.post("/echo")
    def echo(body: dict = Body()) -> dict:  # noqa: B008
        return body

    @app.post("/size")
    async def size(request: Request) -> int:
        return len(await request.body())

    @app.get("/number")
    def number(value: int) -> int:
        return value

    @app.get("/teapot")
    def teapot() -> None:
        raise HTTPException(418, "short and stout")

    @app.get("/broken")
    def broken() -> None:
        raise RuntimeError("the password is hunter2")

    @app.api_route("/anything", methods=["MERGE"])
    def merge() -> str:
        return "merged"

    return app


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(echo_app()) as url:
        yield url


def raw(url: str, request: bytes) -> tuple[int, dict[str, str], dict]:
    """Send bytes, and return the status, headers and JSON of the response."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=10) as connection:
        connection.sendall(request)
        response = b""
        while chunk := connection.recv(65536):
            response += chunk
    head, _, body = response.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    return int(lines[0].split()[1]), dict(line.lower().split(": ", 1) for line in lines[1:]), json.loads(body)


@pytest.mark.parametrize("auth", [{"auth": (TOKEN, "")}, {"headers": {"Authorization": f"Bearer {TOKEN}"}}])
def test_a_token_is_presented_as_bearer_or_user_name(url: str, auth: dict) -> None:
    assert requests.post(f"{url}/echo", json={"a": 1}, **auth).json() == {"a": 1}
    assert requests.request("MERGE", f"{url}/anything", **auth).json() == "merged"


@pytest.mark.parametrize("path", ["/echo", "/number", "/missing", "/openapi.json"])
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic ???"}])
def test_every_path_needs_the_token(url: str, path: str, headers: dict[str, str]) -> None:
    response = requests.get(url + path, headers=headers)
    assert response.status_code == 401 and "token" in response.json()["message"].lower()
    assert response.headers["www-authenticate"].startswith("Basic")


def test_only_health_needs_no_token(url: str) -> None:
    assert requests.get(f"{url}/health").json() == {"status": "ok"}
    for path in ("/health/", "//health", "/health/../echo", "/Health"):
        assert raw(url, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())[0] == 401


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/missing", 404, "Not Found"),
        ("/echo", 405, "Method Not Allowed"),
        ("/teapot", 418, "short and stout"),
        ("/number?value=x", 400, "query.value: "),
        ("/broken", 500, "Internal Server Error"),
    ],
)
def test_all_errors_have_one_shape_and_security_headers(url: str, path: str, status: int, message: str) -> None:
    response = requests.get(url + path, auth=(TOKEN, ""))
    assert response.status_code == status
    assert set(response.json()) == {"message", "status"} and response.json()["status"] == status
    assert message in response.json()["message"] and "hunter2" not in response.text
    assert "server" not in response.headers
    if status != 500:  # answered outside all middleware
        assert response.headers["x-content-type-options"] == "nosniff" and response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("body", [b"{", b"[1]", b"\xff", b'"text"', b""])
def test_a_malformed_body_is_refused(url: str, body: bytes) -> None:
    response = requests.post(f"{url}/echo", data=body, headers={"Content-Type": "application/json"}, auth=(TOKEN, ""))
    assert response.status_code == 400 and "body" in response.json()["message"]


def test_a_body_above_the_limit_is_refused_with_and_without_its_length(url: str) -> None:
    large = json.dumps({"a": "x" * 2000}).encode()
    assert requests.post(f"{url}/echo", data=large, auth=(TOKEN, "")).status_code == 413
    for path in ("/echo", "/size"):
        chunks = (large[i : i + 100] for i in range(0, len(large), 100))
        response = requests.post(url + path, data=chunks, auth=(TOKEN, ""))
        assert response.status_code == 413 and response.json()["message"] == "The request body is larger than 1000 bytes"
    assert requests.post(f"{url}/size", data=iter([b"x" * 500] * 2), auth=(TOKEN, "")).json() == 1000


def test_a_client_that_disconnects_within_its_body_gets_no_response_and_is_no_error() -> None:
    scope = {"type": "http", "method": "POST", "path": "/size", "raw_path": b"/size", "query_string": b"", "root_path": ""}
    headers = [(b"host", b"localhost"), (b"authorization", f"Bearer {TOKEN}".encode()), (b"content-length", b"100")]
    messages = iter([{"type": "http.request", "body": b"x", "more_body": True}, {"type": "http.disconnect"}])
    sent = []

    async def receive() -> Message:
        return next(messages)

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(echo_app()({**scope, "headers": headers}, receive, send))  # the server would log an exception
    assert not sent


@pytest.mark.parametrize("host", ["attacker.example", "127.0.0.1.attacker.example:80", "", "[::2]:80"])
def test_another_host_name_is_refused(url: str, host: str) -> None:
    request = f"GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    status, _, body = raw(url, request.encode())
    assert status == 400 and "host" in body["message"]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:99", "[::1]:99"])
def test_loopback_names_are_accepted(url: str, host: str) -> None:
    assert raw(url, f"GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())[0] == 200


def test_a_page_of_another_site_is_refused_even_with_stored_credentials(url: str) -> None:
    host = urlsplit(url).netloc
    for origin, status in (
        (f"http://{host}", 200),
        ("https://attacker.example", 403),
        ("null", 403),
        ("http://localhost:1", 403),
    ):
        response = requests.post(f"{url}/echo", json={}, headers={"Origin": origin}, auth=(TOKEN, ""))
        assert response.status_code == status, origin


def test_names_of_hosts() -> None:
    assert host_name("Example.org:80") == "example.org" and host_name("[::1]:80") == "::1" and host_name("a") == "a"


def test_a_port_in_use_is_named(url: str) -> None:
    port = urlsplit(url).port or 0
    with pytest.raises(OSError, match=f"port {port} of 127.0.0.1 is in use"):
        listen(port=port)
    with listen("::1") as listener:
        assert url_of(listener).startswith("http://[::1]:")


def test_parallel_requests_are_answered_one_by_one_per_thread(url: str) -> None:
    results: list[int] = []

    def ask(value: int) -> None:
        results.append(requests.get(f"{url}/number?value={value}", auth=(TOKEN, "")).json())

    threads = [threading.Thread(target=ask, args=(value,)) for value in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == list(range(32))


SLOW = """
import sys, time
from ml.http.app import create_app
from ml.http.server import listen, serve, url_of
app = create_app("Slow")
@app.get("/slow")
def slow() -> str:
    print("started", flush=True)
    time.sleep(1)
    return "done"
listener = listen()
print(url_of(listener), flush=True)
serve(app, listener)
print("cleaned up", flush=True)
"""


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_server_after_the_requests_in_progress(sent: signal.Signals) -> None:
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", SLOW], stdout=subprocess.PIPE, text=True, env=env, cwd=ROOT) as process:
        assert process.stdout
        url = process.stdout.readline().strip()
        answers: list[str] = []
        thread = threading.Thread(target=lambda: answers.append(requests.get(f"{url}/slow", timeout=30).json()))
        thread.start()
        assert process.stdout.readline().strip() == "started"
        begun = time.monotonic()
        process.send_signal(sent)
        thread.join()
        assert process.wait(20) == 0 and process.stdout.read() == "cleaned up\n"
    assert answers == ["done"] and time.monotonic() - begun < 15
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{url}/health", timeout=5)
