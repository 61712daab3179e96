"""Training runs: what was tried, with which result, and everything that was logged on the way."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from ml.tuning import render, schema
from ml.tuning.call import Call
from ml.tuning.errors import invalid
from ml.tuning.handlers import projects
from ml.tuning.router import Route
from ml.tuning.runs import fields, outcome, query
from ml.tuning.runs import table as runs
from ml.tuning.sorted_pages import sort_key, sorted_page
from ml.tuning.values import Reader

MAX_BATCH = 10_000


def create(call: Call) -> dict[str, Any]:
    """Create a run of a project, without an experiment."""
    projects.require_all(call)
    project = projects.find(call).id
    (identity,) = runs.insert(call, project, [read_new(Reader(call.data))])
    return runs.shown(call, [runs.load(call, identity)])[0]


def create_batch(call: Call) -> dict[str, Any]:
    """Create several runs of a project: all of them or, if one is not valid, none."""
    projects.require_all(call)
    project = projects.find(call).id
    reader = Reader(call.data)
    items = reader.items("runs", required=True)
    names = [name.strip() for name in (reader.optional_text("fields") or "").split(",") if name.strip()]
    reader.close()
    if len(items) > MAX_BATCH:
        raise reader.error("runs", f"can have at most {MAX_BATCH} items, but has {len(items)}")
    identities = runs.insert(call, project, [read_new(Reader(item, path)) for path, item in items])
    shown = runs.shown(call, runs.selected(call, runs.table.c.id.in_(identities)))
    return render.pagination([{key: run[key] for key in ("object", *names) if key in run} if names else run for run in shown])


def read_new(reader: Reader) -> dict[str, Any]:
    """Read a new run.

    Args:
        reader: Reader of the body.

    Returns:
        Columns of the run.

    Raises:
        ApiError: A field is missing, unknown or not valid.
    """
    given = fields.read_fields(reader)
    reader.close()
    if "name" not in given:
        raise reader.error("name", "is required")
    return fields.apply({}, given, merge=False)


def fetch(call: Call) -> dict[str, Any]:
    """Fetch a run."""
    return runs.shown(call, [runs.requested(call)])[0]


def update(call: Call) -> dict[str, Any]:
    """Change a run: only the fields that are given, each of which is replaced."""
    return _change(call, merge=False)


def merge(call: Call) -> dict[str, Any]:
    """Change a run: fields that are objects are merged recursively, and null deletes a key."""
    return _change(call, merge=True)


def _change(call: Call, *, merge: bool) -> dict[str, Any]:
    run = runs.requested(call, lock=True)
    reader = Reader(call.data)
    given = fields.read_fields(reader)
    project = reader.text("project") if reader.present("project") else run["project"]
    reader.close()
    if project != run["project"] and not _exists(call, project):
        raise invalid("project", f"there is no project {project}")
    changes = {**fields.apply(run, given, merge=merge), "project": project}
    if changes.get("state") in fields.FINISHED and run["completed"] is None:
        changes["completed"] = call.now
    if changes.get("deleted", run["deleted"]) != run["deleted"]:
        outcome.set_deleted(call, run, deleted=changes["deleted"])
    saved = outcome.settle(call, runs.save(call, run["id"], changes))
    return runs.shown(call, [saved])[0]


def delete(call: Call) -> dict[str, Any]:
    """Archive a run, with its suggestion and its observation. An update with `deleted: false` restores it."""
    run = runs.requested(call, lock=True)
    if not run["deleted"]:
        outcome.set_deleted(call, run, deleted=True)
        run = runs.save(call, run["id"], {"deleted": True})
    return runs.shown(call, [run])[0]


def listed(call: Call) -> dict[str, Any]:
    """List runs of a project or client, with filters, a sort field and a text that their names contain."""
    filters = query.read_filters(call.data.get("filters"))
    field = query.field_of(call.data.get("sort", "id"), "sort")
    columns = runs.table.c
    conditions = [columns.client == call.caller.client]
    if "project" in call.arguments:
        conditions.append(columns.project == projects.find(call).id)
    if call.caller.experiment is not None:
        conditions.append(columns.experiment == call.caller.experiment)
    if call.caller.development:
        conditions.append(columns.experiment.is_(None))
    for test in filters:
        if test.field.name == "experiment" and test.operator == "==":  # the most common filter, answered by an index
            conditions.append(columns.experiment == test.value)
    rows = query.select(runs.selected(call, *conditions), filters, call.data.get("search"))
    keyed = [(sort_key(value, row["id"]), row) for row in rows if (value := field.value(row)) is not None]
    page = sorted_page(keyed, call.data, lambda row: {"row": row})
    return {**page, "data": runs.shown(call, [item["row"] for item in page["data"]])}


def _exists(call: Call, project: str) -> bool:
    table = schema.projects
    found = sa.select(table.c.id).where(table.c.client == call.caller.client, table.c.id == project)
    return call.connection.execute(found).one_or_none() is not None


ROUTES = (
    Route("POST", "clients/{client}/projects/{project}/training_runs", create),
    Route("POST", "clients/{client}/projects/{project}/training_runs/batch", create_batch),
    Route("GET", "clients/{client}/projects/{project}/training_runs", listed),
    Route("GET", "clients/{client}/training_runs", listed),
    Route("GET", "training_runs/{run}", fetch),
    Route("PUT", "training_runs/{run}", update),
    Route("MERGE", "training_runs/{run}", merge),
    Route("DELETE", "training_runs/{run}", delete),
)
