"""Suggestions of the core module, and heartbeats."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from ml.tuning import schema
from ml.tuning.call import Call
from ml.tuning.errors import ApiError, invalid
from ml.tuning.experiment import Experiment
from ml.tuning.pages import MAX_LIMIT, flag, page
from ml.tuning.parse.assignments import assignments, metadata
from ml.tuning.parse.experiments import require_active, task_of
from ml.tuning.records import experiments, suggestions
from ml.tuning.router import Route
from ml.tuning.values import Reader, as_identity

PATH = "experiments/{experiment}/suggestions"


def create(call: Call) -> dict[str, Any]:
    """Create a suggestion, or return the open one of the worker that calls."""
    found = requested(call, "suggestions")
    reader = Reader(call.data)
    chosen = assignments(reader.raw("assignments"), found.space) if reader.has("assignments") else None
    task, given = task_of(reader, found), metadata(reader)
    if found.tasks and (task is None) != (chosen is None):
        raise reader.error("task", "assignments and task are only accepted together, because the experiment has tasks")
    reader.flag("no_optimize")
    reader.close()
    return suggestions.show(suggestions.take(call, found, assignments=chosen, task=task, metadata=given))


def requested(call: Call, what: str) -> Experiment:
    """Return the locked experiment for which the core module creates something.

    Raises:
        ApiError: 403 if it belongs to the AI module, 400 if it is deleted.
    """
    found = experiments.requested(call, lock=True)
    if found.runs_only:
        raise ApiError(
            403, f"{what.capitalize()} cannot be created directly for experiment {found.id}, please create runs instead"
        )
    require_active(found, what)
    return found


def listed(call: Call) -> dict[str, Any]:
    """List suggestions: by default open and closed ones, with `deleted` the deleted ones; `id` has several, with commas."""
    found, table = experiments.requested(call), schema.suggestions
    query = sa.select(table).where(*_selected(call, found), table.c.deleted.is_(flag(call.data, "deleted")))
    given = call.data.get("id")
    if given is not None:
        ids = [as_identity(one.strip()) for one in str(given).split(",")]
        if None in ids:
            raise invalid("id", "must be ids with commas between them")
        if len(ids) > MAX_LIMIT:
            raise invalid("id", f"can have at most {MAX_LIMIT} ids; use several calls")
        query = query.where(table.c.id.in_(ids))
    return page(call.connection, query, table.c.id, call.data, suggestions.show)


def fetch(call: Call) -> dict[str, Any]:
    """Fetch a suggestion."""
    return suggestions.show(_requested(call))


def update(call: Call) -> dict[str, Any]:
    """Change the metadata of a suggestion, and renew its lease."""
    row = _requested(call, lock=True)
    reader = Reader(call.data)
    given = metadata(reader) if reader.present("metadata") else row.metadata
    if reader.optional_text("state", choices=("open", "closed")) not in (None, row.state):
        raise reader.error("state", "cannot be changed; create an observation instead")
    reader.flag("no_optimize")
    reader.ignore("task")
    reader.close()
    table = schema.suggestions
    call.connection.execute(table.update().where(table.c.id == row.id).values(metadata=given))
    suggestions.renew(call, row.id)
    return suggestions.show(suggestions.load(call, row.id))


def heartbeat(call: Call) -> dict[str, Any]:
    """Report that the worker of a suggestion still runs."""
    row = _requested(call, lock=True)
    Reader(call.data).close()
    suggestions.renew(call, row.id)
    return suggestions.show(suggestions.load(call, row.id))


def delete(call: Call) -> dict[str, Any]:
    """Delete a suggestion. It no longer counts against the budget, but a result of it is still accepted."""
    suggestions.delete(call, schema.suggestions.c.id == _requested(call, lock=True).id)
    return {}


def delete_all(call: Call) -> dict[str, Any]:
    """Delete all suggestions of an experiment, with `state` only the open or closed ones."""
    suggestions.delete(call, *_selected(call, experiments.requested(call, lock=True)))
    return {}


def _selected(call: Call, found: Experiment) -> list[sa.ColumnElement[bool]]:
    """Return the conditions for the suggestions of an experiment in the requested state."""
    table, state = schema.suggestions, call.data.get("state")
    if state not in (None, "open", "closed"):
        raise invalid("state", "must be open or closed")
    return [table.c.experiment == found.id, *([] if state is None else [table.c.state == state])]


def _requested(call: Call, *, lock: bool = False) -> Any:
    return suggestions.find(call, experiments.requested(call, lock=lock), call.arguments["suggestion"])


ROUTES = (
    Route("POST", PATH, create),
    Route("GET", PATH, listed),
    Route("DELETE", PATH, delete_all),
    Route("GET", PATH + "/{suggestion}", fetch),
    Route("PUT", PATH + "/{suggestion}", update),
    Route("DELETE", PATH + "/{suggestion}", delete),
    Route("POST", PATH + "/{suggestion}/heartbeat", heartbeat),
)
