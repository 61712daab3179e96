"""Tuning services over HTTP, for tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sigopt

from ml.http.server import serving
from ml.tuning.records import tokens
from ml.tuning.server import create_tuning_app
from ml.tuning.service import TuningService

TOKEN, DEVELOPMENT_TOKEN = "test-token", "test-development-token"


def ensure_tokens(service: TuningService) -> None:
    """Store `TOKEN` and `DEVELOPMENT_TOKEN`."""
    with service.database.transaction() as database:
        tokens.ensure(database, TOKEN, 0)
        tokens.ensure(database, DEVELOPMENT_TOKEN, 0, development=True)


@contextmanager
def served(service: TuningService) -> Iterator[str]:
    """Serve a service within the block, and yield its URL."""
    ensure_tokens(service)
    with serving(create_tuning_app(service)) as url:
        yield url


def connect_http(url: str, token: str = TOKEN, **headers: str) -> sigopt.Connection:
    """Return the sigopt client on a service behind a URL."""
    return sigopt.Connection(client_token=token, api_url=url, headers=headers)
