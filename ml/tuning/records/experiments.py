"""Stored experiments."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from ml.tuning import render, schema
from ml.tuning.call import Call
from ml.tuning.errors import ApiError, missing
from ml.tuning.experiment import Experiment, Task
from ml.tuning.parse.metrics import stored_metrics
from ml.tuning.parse.parameters import space
from ml.tuning.values import Reader, as_identity

table = schema.experiments


def insert(call: Call, found: Experiment) -> Experiment:
    """Store a new experiment of the caller."""
    columns = {**_columns(found), "client": call.caller.client, "development": call.caller.development}
    columns |= {"runs_only": found.runs_only, "kind": found.kind, "created": call.now, "updated": call.now}
    result = call.connection.execute(table.insert().values(columns))
    return load(call, result.inserted_primary_key[0])  # type: ignore[index]


def save(call: Call, found: Experiment) -> Experiment:
    """Store a changed experiment."""
    call.connection.execute(table.update().where(table.c.id == found.id).values(**_columns(found), updated=call.now))
    return load(call, found.id)


def touch(call: Call, experiment: int) -> None:
    """Record that something that belongs to an experiment has changed."""
    call.connection.execute(table.update().where(table.c.id == experiment).values(updated=call.now))


def requested(call: Call, *, lock: bool = False) -> Experiment:
    """Return the experiment that the path names.

    Args:
        call: The call.
        lock: Whether to keep other transactions from changing what belongs to the experiment until this one ends. SQLite does
            that for all writers.

    Raises:
        ApiError: 404 if there is no such experiment of the caller; 403 if the token gives access to another one only.
    """
    return find(call, call.arguments["experiment"], lock=lock)


def find(call: Call, key: object, *, lock: bool = False) -> Experiment:
    """Return an experiment of the caller by its id, see `requested`."""
    identity = as_identity(key)
    row = None if identity is None else call.connection.execute(_select(identity, lock=lock)).one_or_none()
    if row is None or row.client != call.caller.client:
        raise missing("experiment", key)
    if call.caller.experiment not in (None, row.id):
        raise ApiError(403, f"The token gives access to experiment {call.caller.experiment} only")
    if call.caller.development and not row.development:
        raise ApiError(403, "A development token gives access to experiments that were created with one only")
    return from_row(row)


def load(call: Call, identity: int) -> Experiment:
    """Return an experiment that is known to exist."""
    return from_row(call.connection.execute(_select(identity)).one())


def from_row(row: Any) -> Experiment:
    """Return the experiment of a row."""
    shown = Reader({key: getattr(row, key) for key in ("parameters", "conditionals", "linear_constraints")})
    return Experiment(
        id=row.id,
        name=row.name,
        space=space(shown, stored=True),
        metrics=stored_metrics(row.metrics),
        tasks=tuple(Task(one["name"], one["cost"]) for one in row.tasks or ()),
        **{
            key: getattr(row, key)
            for key in (
                *("kind", "budget", "bandwidth", "num_solutions", "metadata", "project", "runs_only", "client", "state"),
                *("development", "created", "updated"),
            )
        },
    )


def _select(identity: int, *, lock: bool = False) -> sa.Select:
    query = sa.select(table).where(table.c.id == identity)
    return query.with_for_update() if lock else query


def _columns(found: Experiment) -> dict[str, Any]:
    """Return the columns that can change."""
    return {
        "name": found.name,
        "project": found.project,
        "state": found.state,
        **render.space(found.space),
        "metrics": render.metrics(found.metrics),
        "tasks": [render.task(one) for one in found.tasks] or None,
        "budget": found.budget,
        "bandwidth": found.bandwidth,
        "num_solutions": found.num_solutions,
        "metadata": None if found.metadata is None else dict(found.metadata),
    }
