"""Requests that are generated from the OpenAPI description, valid and invalid ones, against a real service."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import Case, GenerationMode
from upath import UPath

from ml.http.server import serving
from ml.serving.app import create_serving_app
from ml.serving.start import start
from tests.helpers.kiosk_lake import kiosk_lake, spec_of
from tests.helpers.trials import TRIALS

pytestmark = pytest.mark.slow

TOKEN = "secret"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root: Path = tmp_path_factory.mktemp("service")
    engine = start(spec_of(), kiosk_lake(root / "lake"), UPath(root / "stream"))
    with serving(create_serving_app(engine, TOKEN)) as url:
        yield url
        answer = requests.post(f"{url}/recommend", json={"user": 3}, headers=HEADERS, timeout=60)
        assert answer.status_code == 200 and answer.json()["items"]


def send(url: str, case: Case) -> requests.Response | None:
    """Send a generated request with the token; None if it cannot be sent."""
    arguments = case.as_transport_kwargs(base_url=url)
    method = arguments.pop("method", case.method)
    arguments["headers"] = {**(arguments.get("headers") or {}), **HEADERS}
    try:
        return requests.request(method, **arguments, timeout=60)
    except (UnicodeError, requests.exceptions.InvalidURL, requests.exceptions.InvalidHeader):
        return None


@pytest.mark.parametrize("path", ["/recommend", "/rank", "/events"])
def test_generated_requests_are_answered_or_refused(path: str, url: str) -> None:
    described = requests.get(f"{url}/openapi.json", headers=HEADERS, timeout=60).json()
    schema = schemathesis.openapi.from_dict(described)
    [operation] = [found.ok() for found in schema.get_all_operations() if found.ok().path == path]
    answered = set()

    for mode in GenerationMode:

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=25 * TRIALS, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
        )
        def check(case: Case) -> None:
            response = send(url, case)
            if response is not None:
                assert response.status_code < 500, (response.status_code, response.text, case.body)
                answered.add(response.status_code)

        check()
    assert answered


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"user": NaN}',
        b'{"user": 1e400}',
        b'{"user": "\xff"}',
        b'{"user": "\\ud800"}',
        b'{"user": ' + b"9" * 400 + b"}",
        b'{"context": {"place": "' + b"x" * 100_000 + b'"}}',
        b'{"filters": {"item": [NaN, Infinity, null, true, "x", 1.5]}}',
        b"[" * 100_000,
        b'{"user": 1, "user": "x"}',
        b'{"filters": {"item": [' + b"[]," * 1_000_000 + b"[]]}}",
        b'{"examples": [{"place": [' + b"[]," * 1_000_000 + b"[]]}]}",
        b"{" + b",".join(b'"%d":1' % number for number in range(300_000)) + b"}",
    ],
)
@pytest.mark.parametrize("path", ["/recommend", "/rank", "/events"])
def test_strange_bodies_are_refused(path: str, body: bytes, url: str) -> None:
    headers = {**HEADERS, "Content-Type": "application/json"}
    response = requests.post(url + path, data=body, headers=headers, timeout=60)
    assert response.status_code < 500 and len(response.content) < 10_000, response.text[:1000]


def test_a_large_body_is_refused(url: str) -> None:
    body = b'{"context": {"place": "' + b"x" * (5 << 20) + b'"}}'
    assert requests.post(f"{url}/recommend", data=body, headers=HEADERS, timeout=60).status_code == 413
