"""Queued suggestions."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from ml.tuning import render, schema
from ml.tuning.call import Call
from ml.tuning.errors import ApiError, missing
from ml.tuning.experiment import Experiment
from ml.tuning.handlers.suggestions import requested
from ml.tuning.pages import page
from ml.tuning.parse.assignments import assignments
from ml.tuning.parse.experiments import task_of
from ml.tuning.records import experiments, queue
from ml.tuning.router import Route
from ml.tuning.values import Reader, as_identity

PATH = "experiments/{experiment}/queued_suggestions"


def create(call: Call) -> dict[str, Any]:
    """Queue assignments, which are suggested before the search engine's."""
    found = requested(call, "queued suggestions")
    reader = Reader(call.data)
    chosen, task = assignments(reader.raw("assignments", required=True), found.space), task_of(reader, found)
    if found.tasks and task is None:
        raise reader.error("task", "is required, because the experiment has tasks")
    reader.close()
    columns = {
        "experiment": found.id,
        "assignments": chosen,
        "task": None if task is None else render.task(task),
        "state": "open",
        "created": call.now,
    }
    result = call.connection.execute(queue.table.insert().values(columns))
    return queue.show(_find(call, found, result.inserted_primary_key[0]))  # type: ignore[index]


def listed(call: Call) -> dict[str, Any]:
    """List the queue."""
    table = schema.queued_suggestions
    query = sa.select(table).where(table.c.experiment == experiments.requested(call).id, table.c.state == "open")
    return page(call.connection, query, table.c.id, call.data, queue.show)


def fetch(call: Call) -> dict[str, Any]:
    """Fetch a queued suggestion."""
    return queue.show(_find(call, experiments.requested(call), call.arguments["queued_suggestion"]))


def delete(call: Call) -> dict[str, Any]:
    """Remove a suggestion from the queue."""
    row = _find(call, experiments.requested(call, lock=True), call.arguments["queued_suggestion"])
    queue.close(call, row.id, "deleted")
    return {}


def delete_all(call: Call) -> dict[str, Any]:
    """Empty the queue."""
    found, table = experiments.requested(call, lock=True), schema.queued_suggestions
    waiting = table.update().where(table.c.experiment == found.id, table.c.state == "open")
    call.connection.execute(waiting.values(state="deleted"))
    return {}


def _find(call: Call, found: Experiment, key: object) -> Any:
    table, identity = schema.queued_suggestions, as_identity(key)
    row = None
    if identity is not None:
        query = sa.select(table).where(table.c.id == identity, table.c.experiment == found.id)
        row = call.connection.execute(query).one_or_none()
    if row is not None and row.state == "outdated":
        raise ApiError(
            404, f"The queued suggestion {key} was removed, because an update of the parameters excludes its assignments"
        )
    if row is None or row.state != "open":
        raise missing("queued suggestion", key)
    return row


ROUTES = (
    Route("POST", PATH, create),
    Route("GET", PATH, listed),
    Route("DELETE", PATH, delete_all),
    Route("GET", PATH + "/{queued_suggestion}", fetch),
    Route("DELETE", PATH + "/{queued_suggestion}", delete),
)
