"""Limits of connections, against a real server: heads that are too long or too slow, idle connections, and pipelining."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from fastapi import Request

from ml.http.app import create_app
from ml.http.connections import ConnectionLimits
from ml.http.server import serving
from tests.helpers.paths import ROOT

HEAD = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
MANY = b"".join(b"X-%d: y\r\n" % number for number in range(30_000))


@contextmanager
def service(limits: ConnectionLimits | None = None) -> Iterator[str]:
    """A server whose `/echo` returns the length of a body."""
    app = create_app("Test", body_limit=1_000_000)

    @app.post("/echo")
    async def echo(request: Request) -> int:
        return len(await request.body())

    @app.post("/slow")
    async def slow() -> str:
        await asyncio.sleep(2)
        return "done"

    with serving(app, limits=limits) as url:
        yield url


def connect(url: str) -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname or "", parts.port or 0), timeout=30)


def rest_of(connection: socket.socket) -> bytes:
    """What the server sends until it closes."""
    answer = b""
    with suppress(ConnectionResetError):
        while part := connection.recv(65536):
            answer += part
    return answer


def ask(url: str, request: bytes) -> bytes:
    """Send a request as far as the server takes it, and return what it answers until it closes."""
    with connect(url) as connection:
        with suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(request)
        return rest_of(connection)


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(b"GET /" + b"x" * 300_000, id="path"),
        pytest.param(b"GET /health?" + b"x" * 300_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", id="complete path"),
        pytest.param(HEAD + b"X: " + b"y" * 300_000, id="value"),
        pytest.param(HEAD + b"X" * 300_000, id="name"),
        pytest.param(HEAD + MANY, id="many headers"),
        pytest.param(HEAD + MANY + b"\r\n", id="complete head"),
    ],
)
def test_a_head_that_is_too_long_is_refused_before_it_ends(request_: bytes) -> None:
    with service() as url:
        head, _, body = ask(url, request_).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n") and b"connection: close" in head
        assert json.loads(body) == {"message": "The headers of a request have more than 65536 bytes", "status": 431}
        assert b"x-content-type-options: nosniff" in head
        assert requests.get(f"{url}/health", headers={"X": "y" * 60_000}, timeout=30).status_code == 200


def test_trailers_without_end_close_the_connection() -> None:
    start = b"POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"
    with service() as url:
        assert b" 200 OK" in ask(url, start + b"X: y\r\nConnection: close\r\n\r\n" + b"GET / HTTP/1.1\r\nBad\r\n\r\n")
        assert ask(url, start + MANY * 10) == b""


def test_a_body_that_is_refused_early_may_still_be_sent() -> None:
    with service() as url, requests.Session() as session:
        for _ in range(2):
            assert session.post(f"{url}/echo", data=b"x" * 3_000_000, timeout=30).status_code == 413
        assert session.post(f"{url}/echo", data=b"x" * 900_000, timeout=30).json() == 900_000


@pytest.mark.parametrize("sent", [b"G", HEAD])
def test_half_a_head_is_refused_after_its_time(sent: bytes) -> None:
    with service(ConnectionLimits(head_seconds=0.3)) as url:
        answer = ask(url, sent)
        assert answer.startswith(b"HTTP/1.1 408") and b"did not arrive in time" in answer


@pytest.mark.parametrize("sent_ahead", [b"", HEAD + b"\r\n"], ids=["one", "two"])
@pytest.mark.parametrize("end", [b"", b"no HTTP\r\n\r\n"], ids=["closed by the client", "closed by the server"])
def test_a_connection_that_closes_before_the_answer_logs_no_error(
    sent_ahead: bytes, end: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    slow = b"POST /slow HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
    with service() as url, connect(url) as connection:
        connection.sendall(slow + sent_ahead + end)
        if end:
            assert rest_of(connection) == b""
        time.sleep(0.2)  # the request has begun
        connection.close()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR], "when all requests have ended"


def test_half_a_head_behind_a_request_does_not_keep_the_connection() -> None:
    with service(ConnectionLimits(head_seconds=0.3)) as url:
        assert ask(url, HEAD + b"\r\n" + HEAD).count(b"HTTP/1.1 200 OK") == 1


def test_bytes_now_and_then_do_not_keep_a_connection() -> None:
    with (
        service(ConnectionLimits(head_seconds=0.5)) as url,
        connect(url) as head,
        connect(url) as blank,
        connect(url) as silent,
    ):
        head.sendall(HEAD)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            for _ in range(1000):
                blank.sendall(b"\r\n")
                head.sendall(b"X: y\r\n")
                time.sleep(0.02)
        assert rest_of(silent) == b""
        assert rest_of(head).startswith(b"HTTP/1.1 408")
        assert rest_of(blank)[:12] in (b"", b"HTTP/1.1 408")


def test_a_head_in_parts_and_one_after_a_pause_are_answered() -> None:
    with service(ConnectionLimits(head_seconds=2)) as url, connect(url) as connection:
        for _ in range(2):
            for byte in HEAD + b"\r\n":
                connection.sendall(bytes([byte]))
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
            time.sleep(0.2)


def test_the_connection_that_was_silent_for_longest_makes_room() -> None:
    with service(ConnectionLimits(connections=5)) as url, ExitStack() as stack:
        first, second, *others = [stack.enter_context(connect(url)) for _ in range(5)]
        for connection in (second, *others, first):  # the server has seen all of them
            connection.sendall(HEAD + b"\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        assert requests.get(f"{url}/health", timeout=30).status_code == 200
        assert second.recv(1) == b""
        first.sendall(HEAD + b"\r\n")
        assert first.recv(65536).startswith(b"HTTP/1.1 200")


def test_a_connection_that_waits_for_its_answer_is_not_closed_for_newer_ones() -> None:
    with service(ConnectionLimits(connections=5)) as url, ExitStack() as stack:
        waiting = stack.enter_context(connect(url))
        waiting.sendall(b"POST /slow HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        for _ in range(8):
            idle = stack.enter_context(connect(url))
            idle.sendall(HEAD + b"\r\n")
            assert idle.recv(65536).startswith(b"HTTP/1.1 200")
        assert waiting.recv(65536).startswith(b"HTTP/1.1 200")


def test_pipelined_requests_are_answered_in_order_and_too_many_close_the_connection() -> None:
    posts = b"".join(
        b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n%b\r\n%b"
        % (size, b"Connection: close\r\n" if size == 19 else b"", b"x" * size)
        for size in range(20)
    )
    with service() as url:
        assert re.findall(rb"\r\n\r\n(\d+)", ask(url, posts)) == [b"%d" % size for size in range(20)]
        assert ask(url, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000) == b""


SERVER = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
from ml.http.app import create_app
from ml.http.server import listen, serve, url_of
listener = listen()
print(url_of(listener), flush=True)
serve(create_app("Test"), listener)
"""


def peak_kib(process: subprocess.Popen[str]) -> int:
    """The largest resident memory of a process so far, in KiB."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
    assert found
    return int(found.group(1))


def test_memory_and_files_of_a_server_stay_within_bounds() -> None:
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True, env=env, cwd=ROOT) as process:
        try:
            assert process.stdout
            url = process.stdout.readline().strip()
            assert requests.get(f"{url}/health", timeout=30).status_code == 200
            before = peak_kib(process)
            for start, part in (
                (HEAD + b"X: ", b"y" * 2**20),
                (HEAD, MANY),
                (b"", (HEAD + b"\r\n") * 10_000),
                (b"POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", MANY),
            ):
                with connect(url) as connection, suppress(ConnectionResetError, BrokenPipeError):
                    connection.sendall(start)
                    for _ in range(100):
                        connection.sendall(part)
            assert peak_kib(process) - before < 30_000
            with ExitStack() as stack:
                for _ in range(300):
                    stack.enter_context(connect(url))
                assert requests.get(f"{url}/health", timeout=30).status_code == 200
            process.send_signal(signal.SIGTERM)
            process.wait()
        finally:
            process.kill()  # a failed assertion must not wait for the server
