"""Tags of training runs."""

from __future__ import annotations

import re
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from ml.tuning import render, schema
from ml.tuning.call import Call
from ml.tuning.errors import ApiError, missing
from ml.tuning.handlers.projects import require_all
from ml.tuning.pages import page
from ml.tuning.router import Route
from ml.tuning.runs import table as runs
from ml.tuning.values import Reader, as_identity

MAX_NAME = 100
table, links = schema.tags, schema.run_tags


def create(call: Call) -> dict[str, Any]:
    """Create a tag of a client."""
    require_all(call)
    reader = Reader(call.data)
    name, color = reader.text("name", limit=MAX_NAME), reader.text("color")
    reader.close()
    if not re.fullmatch("#[0-9A-Fa-f]{6}", color):
        raise reader.error("color", "must have the form #1A2B3C")
    columns = {"client": call.caller.client, "name": name, "color": color.upper(), "created": call.now}
    try:
        with call.connection.begin_nested():
            row = call.connection.execute(table.insert().values(columns).returning(*table.c)).one()
    except IntegrityError:
        raise ApiError(409, f"The tag {name} exists already") from None
    return _shown(row)


def listed(call: Call) -> dict[str, Any]:
    """List the tags of a client."""
    query = sa.select(table).where(table.c.client == call.caller.client)
    return page(call.connection, query, table.c.id, call.data, _shown)


def add(call: Call) -> dict[str, Any]:
    """Add a tag to a run."""
    run = runs.requested(call)
    reader = Reader(call.data)
    key = reader.raw("id", required=True)
    reader.close()
    tag = _find(call, key)
    if tag is None:
        raise ApiError(422, f"There is no tag {key}")
    pair = {"training_run": run["id"], "tag": tag.id}
    if call.connection.execute(sa.select(links).filter_by(**pair)).one_or_none() is None:
        call.connection.execute(links.insert().values(pair))
        runs.touch(call, run)
    return _shown(tag)


def remove(call: Call) -> dict[str, Any]:
    """Remove a tag from a run."""
    run = runs.requested(call)
    tag = _find(call, call.arguments["tag"])
    if tag is None:
        raise missing("tag", call.arguments["tag"])
    call.connection.execute(links.delete().where(links.c.training_run == run["id"], links.c.tag == tag.id))
    runs.touch(call, run)
    return _shown(tag)


def _find(call: Call, key: object) -> sa.Row | None:
    query = sa.select(table).where(table.c.client == call.caller.client, table.c.id == as_identity(key))
    return call.connection.execute(query).one_or_none()


def _shown(row: sa.Row) -> dict[str, Any]:
    return {
        "object": "tag",
        "id": render.identity(row.id),
        "client": render.identity(row.client),
        "name": row.name,
        "color": row.color,
    }


ROUTES = (
    Route("POST", "clients/{client}/tags", create),
    Route("GET", "clients/{client}/tags", listed),
    Route("POST", "training_runs/{run}/tags", add),
    Route("DELETE", "training_runs/{run}/tags/{tag}", remove),
)
