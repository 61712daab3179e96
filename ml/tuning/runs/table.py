"""Stored training runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from ml.tuning import render, schema
from ml.tuning.call import Call
from ml.tuning.errors import ApiError, missing
from ml.tuning.runs import fields
from ml.tuning.values import as_identity

Run = dict[str, Any]
"""One row."""

table = schema.training_runs


def requested(call: Call, *, lock: bool = False) -> Run:
    """Return the run that the path names.

    Args:
        call: The call.
        lock: Whether to keep other transactions from changing the run and its experiment until this one ends.

    Raises:
        ApiError: 404 if there is no such run of the caller; 403 if the token gives access to another experiment only.
    """
    key = call.arguments["run"]
    found = selected(call, table.c.id == as_identity(key), table.c.client == call.caller.client)
    if not found:
        raise missing("training run", key)
    if call.caller.experiment not in (None, found[0]["experiment"]):
        raise ApiError(403, f"The token gives access to experiment {call.caller.experiment} only")
    if call.caller.development and found[0]["experiment"] is not None:
        raise ApiError(403, "A development token gives access to runs without an experiment only")
    if lock and found[0]["experiment"] is not None:  # before the run, as calls that create runs do
        owner = schema.experiments.c.id
        call.connection.execute(sa.select(owner).where(owner == found[0]["experiment"]).with_for_update())
    return selected(call, table.c.id == found[0]["id"], lock=True)[0] if lock else found[0]


def selected(call: Call, *conditions: sa.ColumnElement[bool], lock: bool = False) -> list[Run]:
    """Return the runs that meet conditions, in the order of their ids."""
    query = sa.select(table).where(*conditions).order_by(table.c.id)
    return [row._asdict() for row in call.connection.execute(query.with_for_update() if lock else query)]


def load(call: Call, identity: int) -> Run:
    """Return a run that is known to exist."""
    (found,) = selected(call, table.c.id == identity)
    return found


def insert(call: Call, project: str, content: Sequence[Mapping[str, Any]]) -> list[int]:
    """Store new runs of the caller in a project.

    Args:
        call: The call.
        project: Id of the project.
        content: Columns of each run, with its name.

    Returns:
        Their ids, in the same order.
    """
    fixed = {"client": call.caller.client, "project": project, "created": call.now, "updated": call.now}
    rows = [
        {
            **dict.fromkeys((*fields.PARTS, "experiment", "suggestion", "observation", "completed")),
            **{"state": "active", "deleted": False, "favorite": False},
            **fixed,
            **({"completed": call.now} if columns.get("state") in fields.FINISHED else {}),
            **columns,
        }
        for columns in content
    ]
    if not rows:
        return []
    inserted = call.connection.execute(table.insert().returning(table.c.id, sort_by_parameter_order=True), rows)
    return list(inserted.scalars())


def save(call: Call, identity: int, changes: Mapping[str, Any]) -> Run:
    """Store changed columns of a run."""
    call.connection.execute(table.update().where(table.c.id == identity).values(**changes, updated=call.now))
    return load(call, identity)


def touch(call: Call, run: Run) -> None:
    """Record that something that belongs to a run has changed."""
    save(call, run["id"], {})


def shown(call: Call, rows: Sequence[Run]) -> list[dict[str, Any]]:
    """Return runs as the API shows them."""
    identities = [row["id"] for row in rows]
    counted = schema.checkpoints
    counts = dict(
        call.connection.execute(
            sa.select(counted.c.training_run, sa.func.count())
            .where(counted.c.training_run.in_(identities))
            .group_by(counted.c.training_run)
        )
        .tuples()
        .all()
    )
    tags = _related(call, schema.run_tags, schema.run_tags.c.tag, identities)
    files = _related(call, schema.files, schema.files.c.id, identities)
    return [
        {
            "object": "training_run",
            "id": render.identity(row["id"]),
            "client": render.identity(row["client"]),
            "user": None,
            "project": row["project"],
            "experiment": render.identity(row["experiment"]),
            "suggestion": render.identity(row["suggestion"]),
            "observation": render.identity(row["observation"]),
            "name": row["name"],
            "state": row["state"],
            "finished": row["completed"] is not None or row["observation"] is not None,
            "deleted": row["deleted"],
            "favorite": row["favorite"],
            "created": int(row["created"]),
            "updated": int(row["updated"]),
            "completed": None if row["completed"] is None else int(row["completed"]),
            "checkpoint_count": counts.get(row["id"], 0),
            "tags": tags.get(row["id"], []),
            "files": files.get(row["id"], []),
            **fields.shown(row),
        }
        for row in rows
    ]


def _related(call: Call, table: sa.Table, column: sa.Column, runs: Sequence[int]) -> dict[int, list[str]]:
    """Return ids of what belongs to runs, by run."""
    found: dict[int, list[str]] = {}
    query = sa.select(table.c.training_run, column).where(table.c.training_run.in_(runs)).order_by(column)
    for run, identity in call.connection.execute(query):
        found.setdefault(run, []).append(str(identity))
    return found
