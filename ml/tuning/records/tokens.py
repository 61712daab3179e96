"""Tokens, and who sends them."""

from __future__ import annotations

import sqlalchemy as sa

from ml.tuning import schema
from ml.tuning.call import Caller
from ml.tuning.errors import ApiError
from ml.tuning.values import as_text

MAX_WORKER = 100  # characters in a worker's name


def authenticate(connection: sa.Connection, token: str | None, worker: str | None, now: float) -> Caller:
    """Return who sends a token, see `TuningService.authenticate`."""
    secret, _, named = (token or "").partition("@")
    if not secret:
        raise ApiError(401, "The request needs a token; set SIGOPT_API_TOKEN")
    table = schema.tokens
    row = connection.execute(sa.select(table).where(table.c.token == secret)).one_or_none() if secret.isprintable() else None
    if row is None or (row.expires is not None and row.expires <= now):
        raise ApiError(401, "The token is unknown or has expired; set SIGOPT_API_TOKEN to a valid one")
    name = worker or named or None
    if name is not None:
        name = as_text(name, "worker", limit=MAX_WORKER)
    return Caller(row.client, secret, name, row.development, row.experiment)


def ensure(connection: sa.Connection, token: str, now: float, *, client: int = 1, development: bool = False) -> None:
    """Store a token of a client unless it exists."""
    table = schema.tokens
    if connection.execute(sa.select(table.c.token).where(table.c.token == token)).one_or_none() is None:
        connection.execute(table.insert().values(token=token, client=client, development=development, created=now))
