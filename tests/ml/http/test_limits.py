"""Limits under load, against a real server: rates of clients, requests in progress, and slow bodies."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi import Request

from ml.http.app import create_app
from ml.http.limits import MOST_CLIENTS, Limits, TokenBuckets
from ml.http.server import serving


@contextmanager
def service(limits: Limits) -> Iterator[tuple[str, threading.Event]]:
    """A service whose `/wait` answers once the event is set, and whose `/echo` returns the length of a body."""
    app, go = create_app("Test", limits=limits), threading.Event()

    @app.get("/wait")
    async def wait() -> dict[str, str]:
        while not go.is_set():
            await asyncio.sleep(0.01)
        return {}

    @app.post("/echo")
    async def echo(request: Request) -> dict[str, int]:
        return {"length": len(await request.body())}

    with serving(app) as url:
        yield url, go


def client_at(address: str, url: str) -> httpx.Client:
    return httpx.Client(base_url=url, transport=httpx.HTTPTransport(local_address=address), timeout=30)


def test_a_client_that_sends_too_fast_is_told_when_to_come_back() -> None:
    with (
        service(Limits(rate=2, burst=4)) as (url, _),
        client_at("127.0.0.1", url) as one,
        client_at("127.0.0.2", url) as other,
    ):
        answers = [one.post("/echo", content=b"x") for _ in range(8)]
        assert [answer.status_code for answer in answers[:4]] == [200] * 4
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert refused.headers["retry-after"] == "1" and "2 requests a second" in refused.json()["message"]
        assert refused.headers["x-content-type-options"] == "nosniff"
        assert other.post("/echo", content=b"x").status_code == 200, "another client has a bucket of its own"
        assert all(one.get("/health").status_code == 200 for _ in range(8))
        time.sleep(int(refused.headers["retry-after"]))
        assert one.post("/echo", content=b"x").status_code == 200


@pytest.mark.parametrize(("trusted", "wanted"), [("127.0.0.1", [200, 429, 200]), ("10.0.0.9", [200, 429, 429])])
def test_only_clients_behind_a_trusted_proxy_have_their_own_rates(
    trusted: str, wanted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", trusted)
    with service(Limits(rate=1e-3, burst=1)) as (url, _), client_at("127.0.0.1", url) as proxy:
        found = [
            proxy.post("/echo", content=b"x", headers={"x-forwarded-for": client}).status_code
            for client in ("10.0.0.1", "10.0.0.1", "10.0.0.2")
        ]
    assert found == wanted


def test_requests_beyond_the_limit_are_refused_while_others_are_answered() -> None:
    with service(Limits(in_flight=3)) as (url, go), client_at("127.0.0.1", url) as client, ThreadPoolExecutor(3) as pool:
        held = [pool.submit(httpx.get, f"{url}/wait", timeout=30) for _ in range(3)]
        until = time.monotonic() + 30
        while (refused := client.post("/echo", content=b"x")).status_code == 200:
            assert time.monotonic() < until
        assert refused.status_code == 503 and refused.headers["retry-after"] == "1"
        assert client.get("/health").status_code == 200
        go.set()
        assert [one.result().status_code for one in held] == [200] * 3
        assert client.post("/echo", content=b"x").json() == {"length": 1}, "places are given back"


@pytest.mark.parametrize("sent", [b"", b"ab"])
def test_a_body_that_does_not_arrive_is_refused_and_the_connection_closed(sent: bytes) -> None:
    with service(Limits(body_seconds=0.3)) as (url, _):
        address = urlsplit(url)
        assert address.hostname and address.port
        with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
            connection.sendall(f"POST /echo HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Length: 9\r\n\r\n".encode() + sent)
            answer = b""
            while part := connection.recv(4096):  # until the server closes
                answer += part
        assert answer.startswith(b"HTTP/1.1 408") and b"did not arrive in time" in answer
        slow = httpx.post(f"{url}/echo", content=(part for part in [b"ab", b"c"]), timeout=30)
        assert slow.json() == {"length": 3}


def test_a_request_that_takes_long_to_answer_is_not_a_slow_body() -> None:
    with service(Limits(body_seconds=0.1)) as (url, go), ThreadPoolExecutor(1) as pool:
        held = pool.submit(httpx.get, f"{url}/wait", timeout=30)
        time.sleep(0.3)
        go.set()
        assert held.result().status_code == 200


def test_a_bucket_fills_up_to_the_burst_and_old_clients_are_dropped() -> None:
    buckets = TokenBuckets(rate=10, burst=2)
    assert [buckets.take("a", 0.0) for _ in range(3)] == [0.0, 0.0, 0.1]
    assert [buckets.take("a", 100.0) for _ in range(3)] == [0.0, 0.0, 0.1]
    for number in range(MOST_CLIENTS):
        buckets.take(f"other {number}", 100.0)
    assert len(buckets._held) == MOST_CLIENTS and "a" not in buckets._held
