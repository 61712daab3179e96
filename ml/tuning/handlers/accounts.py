"""Clients, tokens and sessions of callers. The service has no users."""

from __future__ import annotations

import secrets
from typing import Any

import sqlalchemy as sa

from ml.tuning import render, schema
from ml.tuning.call import Call
from ml.tuning.errors import ApiError, missing
from ml.tuning.records import experiments
from ml.tuning.router import Route
from ml.tuning.values import Reader


def own_token(call: Call) -> dict[str, Any]:
    """Fetch a token of the caller; `self` is the token of the request."""
    name = call.arguments["token"]
    if name == "self":
        return _shown_token(call, _row(call, call.caller.token))
    return _shown_token(call, _other(call, name))


def tokens(call: Call) -> dict[str, Any]:
    """List the tokens of a client."""
    _require_full(call)
    table = schema.tokens
    rows = call.connection.execute(sa.select(table).where(table.c.client == call.caller.client).order_by(table.c.created))
    return render.pagination(_shown_token(call, row) for row in rows)


def create(call: Call) -> dict[str, Any]:
    """Create a token of a client; with `development`, a development token."""
    _require_full(call)
    reader = Reader(call.data)
    development = reader.flag("development")
    reader.close()
    return _created(call, development=development)


def delete(call: Call) -> dict[str, Any]:
    """Revoke a token. The service stores the token of its file again when it starts, so replace the file as well."""
    _require_full(call)
    name = call.arguments["token"]
    if name in ("self", call.caller.token):
        raise ApiError(403, "A token cannot revoke itself; use another token")
    row = _other(call, name)
    call.connection.execute(schema.tokens.delete().where(schema.tokens.c.token == row.token))
    return {}


def share(call: Call) -> dict[str, Any]:
    """Create a token that gives access to one experiment only."""
    found = experiments.requested(call)
    if call.caller.development:
        raise ApiError(403, "A development token cannot create tokens")
    return _created(call, experiment=found.id)


def _created(call: Call, **columns: Any) -> dict[str, Any]:
    table, own = schema.tokens, {"token": secrets.token_hex(24), "client": call.caller.client, "created": call.now}
    return _shown_token(call, call.connection.execute(table.insert().values(**own, **columns).returning(*table.c)).one())


def _require_full(call: Call) -> None:
    """Refuse tokens that give access to a part of what the client has."""
    if call.caller.experiment is not None:
        raise ApiError(403, f"The token gives access to experiment {call.caller.experiment} only")
    if call.caller.development:
        raise ApiError(403, "A development token gives no access to tokens")


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


def _other(call: Call, token: str) -> sa.Row:
    """Return a token of the client that the path names.

    Raises:
        ApiError: 404 if there is none, or if the caller has no access to it.
    """
    row = _row(call, token)
    limited = (call.caller.experiment is not None or call.caller.development) and token != call.caller.token
    if row is None or row.client != call.caller.client or limited:
        raise missing("token", token)
    return row


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
    Route("DELETE", "tokens/{token}", delete),
    Route("GET", "clients/{client}", client),
    Route("GET", "clients/{client}/tokens", tokens),
    Route("POST", "clients/{client}/tokens", create),
    Route("POST", "experiments/{experiment}/tokens", share),
    Route("GET", "sessions", session),
    Route("POST", "sessions", session),
)
