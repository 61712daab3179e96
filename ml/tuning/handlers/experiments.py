"""Experiments of the core module."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from ml.tuning import render, schema
from ml.tuning.call import Call
from ml.tuning.errors import ApiError, invalid
from ml.tuning.experiment import Experiment
from ml.tuning.handlers import projects
from ml.tuning.pages import flag, page
from ml.tuning.parse import experiments as parser
from ml.tuning.records import experiments, progress, queue
from ml.tuning.router import Route
from ml.tuning.sorted_pages import sort_key, sorted_page
from ml.tuning.values import as_identity


def create(call: Call) -> dict[str, Any]:
    """Create an experiment; with `runs_only`, one of the AI module."""
    found = parser.experiment(call.data)
    if found.runs_only:
        require_production(call)
    return show(call, store(call, found))


def require_production(call: Call) -> None:
    """Refuse a development token, whose experiments have suggestions and observations only.

    Raises:
        ApiError: 403 if the caller has a development token.
    """
    if call.caller.development:
        raise ApiError(403, "A development token cannot create experiments of the AI module")


def store(call: Call, found: Experiment) -> Experiment:
    """Store a new experiment, whose project must exist.

    Raises:
        ApiError: The project does not exist, or the token gives access to one experiment only.
    """
    if call.caller.experiment is not None:
        raise ApiError(403, f"The token gives access to experiment {call.caller.experiment} only")
    _require_project(call, found.project)
    return experiments.insert(call, found)


def fetch(call: Call) -> dict[str, Any]:
    """Fetch an experiment."""
    return show(call, experiments.requested(call))


def update(call: Call) -> dict[str, Any]:
    """Change an experiment: only the keys that are given."""
    found = experiments.requested(call, lock=True)
    changed = parser.update(call.data, found)
    if changed.project != found.project:
        _require_project(call, changed.project)
        projects.touch(call, found.project, changed.project)
    if changed.space != found.space:
        queue.revise(call, found, changed)
    return show(call, experiments.save(call, changed))


def delete(call: Call) -> dict[str, Any]:
    """Archive an experiment. An update with `state: active` restores it."""
    found = experiments.requested(call, lock=True)
    experiments.save(call, parser.update({"state": "deleted"}, found))
    return {}


def listed(call: Call) -> dict[str, Any]:
    """List the experiments of a client or project: by default the active ones of the core module."""
    if "project" in call.arguments:
        projects.find(call)
    return page_of(call, *([] if flag(call.data, "include_ai") else [schema.experiments.c.runs_only.is_(False)]))


def page_of(call: Call, *conditions: sa.ColumnElement[bool]) -> dict[str, Any]:
    """Return one page of the caller's experiments that satisfy conditions.

    The query parameters are `state`, `search`, `development`, `period_start` and `period_end` (times of creation in Unix
    seconds, the end excluded), and `sort`: `id`, or `recent` for the time of the last change.
    """
    table = schema.experiments
    state = call.data.get("state", "active")
    if state not in ("active", "deleted", "all"):
        raise invalid("state", "must be active, deleted or all")
    query = sa.select(table).where(table.c.client == call.caller.client, *conditions)
    if state != "all":
        query = query.where(table.c.state == state)
    if call.caller.experiment is not None:
        query = query.where(table.c.id == call.caller.experiment)
    if call.data.get("search"):
        query = query.where(sa.func.lower(table.c.name).contains(str(call.data["search"]).lower().strip(), autoescape=True))
    if "project" in call.arguments:
        query = query.where(table.c.project == call.arguments["project"])
    if call.caller.development:
        query = query.where(table.c.development.is_(True))
    if "development" in call.data:
        query = query.where(table.c.development.is_(flag(call.data, "development")))
    query = query.where(*_period(call))
    sort = call.data.get("sort", "id")
    if sort == "id":
        return page(call.connection, query, table.c.id, call.data, lambda row: show(call, experiments.from_row(row)))
    if sort != "recent":
        raise invalid("sort", "must be id or recent")
    recent = call.connection.execute(query.with_only_columns(table.c.id, table.c.updated)).tuples()
    keyed = [(sort_key(updated, identity), identity) for identity, updated in recent]
    return sorted_page(keyed, call.data, lambda identity: show(call, experiments.load(call, identity)))


def _period(call: Call) -> list[sa.ColumnElement[bool]]:
    """Return the conditions of the query parameters `period_start` and `period_end`."""
    created, bounds = schema.experiments.c.created, {}
    for key in ("period_start", "period_end"):
        if call.data.get(key) is not None:
            bounds[key] = as_identity(call.data[key])
            if bounds[key] is None:
                raise invalid(key, "must be a time in Unix seconds")
    start, end = bounds.get("period_start"), bounds.get("period_end")
    if start is not None and end is not None and start > end:
        raise invalid("period_start", "must not be after period_end")
    return [*([] if start is None else [created >= start]), *([] if end is None else [created < end])]


def show(call: Call, found: Experiment) -> dict[str, Any]:
    """Return an experiment with its progress."""
    return render.experiment(found, progress.shown(call, found))


def _require_project(call: Call, project: str | None) -> None:
    table = schema.projects
    exists = sa.select(table.c.id).where(table.c.client == call.caller.client, table.c.id == project)
    if project is not None and call.connection.execute(exists).one_or_none() is None:
        raise invalid("project", f"could not assign to project {project}, the project does not exist")


ROUTES = (
    Route("POST", "experiments", create),
    Route("GET", "experiments", listed),
    Route("GET", "experiments/{experiment}", fetch),
    Route("PUT", "experiments/{experiment}", update),
    Route("DELETE", "experiments/{experiment}", delete),
    Route("POST", "clients/{client}/experiments", create),
    Route("GET", "clients/{client}/experiments", listed),
    Route("GET", "clients/{client}/projects/{project}/experiments", listed),
)
