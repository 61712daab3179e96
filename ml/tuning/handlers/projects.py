"""Projects, which group experiments and runs."""

from __future__ import annotations

import re
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from ml.tuning import render, schema
from ml.tuning.call import Call
from ml.tuning.errors import ApiError, invalid, missing
from ml.tuning.pages import flag
from ml.tuning.parse.assignments import metadata
from ml.tuning.router import Route
from ml.tuning.sorted_pages import sort_key, sorted_page
from ml.tuning.values import Reader

MAX_ID, MAX_NAME = 32, 100
table = schema.projects


def create(call: Call) -> dict[str, Any]:
    """Create a project."""
    require_all(call)
    reader = Reader(call.data)
    identity = reader.text("id", limit=MAX_ID)
    if not re.fullmatch(r"[a-z0-9\-_.]+", identity):
        raise reader.error("id", "can only have lowercase letters, digits, hyphens, underscores and periods")
    columns = {"name": reader.text("name", limit=MAX_NAME), "metadata": metadata(reader)}
    reader.close()
    try:
        with call.connection.begin_nested():
            columns |= {"id": identity, "client": call.caller.client, "created": call.now, "updated": call.now}
            call.connection.execute(table.insert().values(columns))
    except IntegrityError:
        raise ApiError(409, f"The project {identity} exists already") from None
    return _shown(call, [find(call, identity)])[0]


def fetch(call: Call) -> dict[str, Any]:
    """Fetch a project."""
    return _shown(call, [find(call)])[0]


def update(call: Call) -> dict[str, Any]:
    """Change a project; `deleted` archives or restores it."""
    require_all(call)
    found = find(call)
    reader = Reader(call.data)
    changes: dict[str, Any] = {"updated": call.now}
    if reader.present("name"):
        changes["name"] = reader.text("name", limit=MAX_NAME)
    if reader.present("metadata"):
        changes["metadata"] = metadata(reader)
    if reader.present("deleted"):
        changes["deleted"] = reader.flag("deleted")
    reader.close()
    call.connection.execute(table.update().where(*_is(call, found.id)).values(changes))
    return _shown(call, [find(call)])[0]


def listed(call: Call) -> dict[str, Any]:
    """List the projects of a client, with `deleted` also the archived ones."""
    sort = call.data.get("sort", "updated")
    if sort not in ("created", "updated"):
        raise invalid("sort", "must be created or updated")
    rows = call.connection.execute(sa.select(table).where(table.c.client == call.caller.client)).all()
    kept = [row for row in rows if flag(call.data, "deleted") or not row.deleted]
    times = _changed(call, kept) if sort == "updated" else {row.id: row.created for row in kept}
    page = sorted_page(((sort_key(times[row.id], row.id), row) for row in kept), call.data, lambda row: {"row": row})
    return {**page, "data": _shown(call, [item["row"] for item in page["data"]])}


def find(call: Call, identity: str | None = None) -> sa.Row:
    """Return a project of the caller, by default the one that the path names.

    Raises:
        ApiError: 404 if there is no such project.
    """
    identity = call.arguments["project"] if identity is None else identity
    row = call.connection.execute(sa.select(table).where(*_is(call, identity))).one_or_none()
    if row is None:
        raise missing("project", identity)
    return row


def _is(call: Call, identity: str) -> tuple[sa.ColumnElement[bool], ...]:
    return table.c.client == call.caller.client, table.c.id == identity


def require_all(call: Call) -> None:
    """Refuse a token that gives access to one experiment only."""
    if call.caller.experiment is not None:
        raise ApiError(403, f"The token gives access to experiment {call.caller.experiment} only")


def touch(call: Call, *identities: str | None) -> None:
    """Record that what belongs to projects has changed."""
    changed = table.update().where(table.c.client == call.caller.client, table.c.id.in_(identities))
    call.connection.execute(changed.values(updated=call.now))


def _changed(call: Call, rows: list[sa.Row]) -> dict[str, float]:
    """Return when each project, an experiment or a run of it was changed last."""
    times = {row.id: row.updated for row in rows}
    for contents in (schema.experiments, schema.training_runs):
        for name, updated in _grouped(call, contents, sa.func.max(contents.c.updated), rows):
            times[name] = max(times[name], updated)
    return times


def _grouped(call: Call, contents: sa.Table, value: sa.ColumnElement[Any], rows: list[sa.Row]) -> list[tuple[str, Any]]:
    """Return a value that is aggregated over what belongs to each project."""
    own = contents.c.client == call.caller.client, contents.c.project.in_([row.id for row in rows])
    query = sa.select(contents.c.project, value).where(*own).group_by(contents.c.project)
    return [(name, found) for name, found in call.connection.execute(query)]


def _shown(call: Call, rows: list[sa.Row]) -> list[dict[str, Any]]:
    """Return projects with the numbers of their experiments and runs."""
    changed = _changed(call, rows)
    counts = {
        contents.name: dict(_grouped(call, contents, sa.func.count(), rows))
        for contents in (schema.experiments, schema.training_runs)
    }
    return [
        {
            "object": "project",
            "id": row.id,
            "client": render.identity(row.client),
            "user": None,
            "name": row.name,
            "metadata": row.metadata,
            "deleted": row.deleted,
            "created": int(row.created),
            "updated": int(changed[row.id]),
            "experiment_count": counts["experiments"].get(row.id, 0),
            "training_run_count": counts["training_runs"].get(row.id, 0),
        }
        for row in rows
    ]


ROUTES = (
    Route("POST", "clients/{client}/projects", create),
    Route("GET", "clients/{client}/projects", listed),
    Route("GET", "clients/{client}/projects/{project}", fetch),
    Route("PUT", "clients/{client}/projects/{project}", update),
)
