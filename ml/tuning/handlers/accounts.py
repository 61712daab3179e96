"""Clients, tokens and sessions: who calls, as far as a service without users knows."""

from __future__ import annotations

import secrets
from typing import Any

import sqlalchemy as sa

from ml.tuning import render, schema
from ml.tuning.call import Call
from ml.tuning.errors import ApiError, missing
from ml.tuning.records import experiments
from ml.tuning.router import Route


def own_token(call: Call) -> dict[str, Any]:
    """Fetch a token of the caller; `self` is the token of the request."""
    name = call.arguments["token"]
    if name == "self":
        return _shown_token(call, _row(call, call.caller.token))
    row = _row(call, name)
    if row is None or row.client != call.caller.client or call.caller.experiment is not None:
        raise missing("token", name)
    return _shown_token(call, row)


def tokens(call: Call) -> dict[str, Any]:
    """List the tokens of a client."""
    if call.caller.experiment is not None:
        raise ApiError(403, f"The token gives access to experiment {call.caller.experiment} only")
    table = schema.tokens
    rows = call.connection.execute(sa.select(table).where(table.c.client == call.caller.client).order_by(table.c.created))
    return render.pagination(_shown_token(call, row) for row in rows)


def share(call: Call) -> dict[str, Any]:
    """Create a token that gives access to one experiment only."""
    found, table = experiments.requested(call), schema.tokens
    if call.caller.development:
        raise ApiError(403, "A development token cannot create tokens")
    columns = {"token": secrets.token_hex(24), "client": found.client, "experiment": found.id, "created": call.now}
    return _shown_token(call, call.connection.execute(table.insert().values(columns).returning(*table.c)).one())


def client(call: Call) -> dict[str, Any]:
    """Fetch the client of the caller."""
    return _client(call)


def session(call: Call) -> dict[str, Any]:
    """Describe the caller. To get a session without the header `Authorization`, post the token as `password`."""
    return {
        "object": "session",
        "api_token": _shown_token(call, _row(call, call.caller.token)),
        "client": _client(call),
        "code": None,
        "needs_password_reset": False,
        "user": None,
    }


def _row(call: Call, token: str | None) -> sa.Row | None:
    return call.connection.execute(sa.select(schema.tokens).where(schema.tokens.c.token == token)).one_or_none()


def _client(call: Call) -> dict[str, Any]:
    row = call.connection.execute(sa.select(schema.clients).where(schema.clients.c.id == call.caller.client)).one()
    return {
        "object": "client",
        "id": render.identity(row.id),
        "name": row.name,
        "created": int(row.created),
        "organization": None,
        "client_security": {"allow_users_to_see_experiments_by_others": True},
    }


def _shown_token(call: Call, row: sa.Row | None) -> dict[str, Any]:
    """Return a token. A caller in the same process, see `ml.tuning.driver`, has none."""
    token, experiment, expires = (None, None, None) if row is None else (row.token, row.experiment, row.expires)
    development = row is not None and row.development
    return {
        "object": "token",
        "token": token,
        "token_type": "guest" if experiment is not None else "client-dev" if development else "client-api",
        "client": render.identity(call.caller.client),
        "experiment": render.identity(experiment),
        "all_experiments": experiment is None,
        "development": development,
        "permissions": "write",
        "expires": None if expires is None else int(expires),
        "user": None,
        "organization": None,
    }


ROUTES = (
    Route("GET", "tokens/{token}", own_token),
    Route("GET", "clients/{client}", client),
    Route("GET", "clients/{client}/tokens", tokens),
    Route("POST", "experiments/{experiment}/tokens", share),
    Route("GET", "sessions", session),
    Route("POST", "sessions", session),
)
