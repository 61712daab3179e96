"""Stored observations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from ml.tuning import render, schema
from ml.tuning.call import Call
from ml.tuning.definition import Value
from ml.tuning.errors import missing
from ml.tuning.experiment import Experiment, Task
from ml.tuning.records import suggestions
from ml.tuning.values import as_identity

table = schema.observations


def record(
    call: Call,
    found: Experiment,
    *,
    suggestion: Any = None,
    assignments: Mapping[str, Value] | None = None,
    values: Mapping[str, Mapping[str, float]] | None = None,
    stopped: bool = False,
    task: Task | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Any:
    """Store the result of a suggestion, or of assignments that the caller has chosen.

    A suggestion has one result, the first. A later one changes nothing, so that a worker can repeat a report whose response it
    did not receive. The lease does not matter.

    Args:
        call: The call, whose transaction has locked the experiment.
        found: The experiment.
        suggestion: Row of the suggestion.
        assignments: The assignments, if there is no suggestion.
        values: Measured values by metric; None for a failure.
        stopped: Whether there are no values because the trial was stopped early.
        task: The task. By default, the task of the suggestion.
        metadata: Metadata of the observation.

    Returns:
        The row of the observation that is stored.
    """
    if suggestion is not None:
        earlier = of_suggestion(call, suggestion.id)
        if earlier is not None:
            return earlier
        suggestions.close(call, suggestion.id)
    given = None if task is None else render.task(task)
    columns = {
        "experiment": found.id,
        "suggestion": None if suggestion is None else suggestion.id,
        "assignments": suggestion.assignments if suggestion is not None else dict(assignments or {}),
        "values": {name: dict(measurement) for name, measurement in (values or {}).items()},
        "failed": values is None,
        "stopped": stopped,
        "task": given or (None if suggestion is None else suggestion.task),
        "metadata": None if metadata is None else dict(metadata),
        "deleted": False,
        "created": call.now,
    }
    result = call.connection.execute(table.insert().values(columns))
    return load(call, result.inserted_primary_key[0])  # type: ignore[index]


def of_suggestion(call: Call, suggestion: int) -> Any:
    """Return the row of a suggestion's observation, None if it has none."""
    query = sa.select(table).where(table.c.suggestion == suggestion, table.c.deleted.is_(False))
    return call.connection.execute(query).one_or_none()


def load(call: Call, identity: int) -> Any:
    """Return the row of an observation that is known to exist."""
    return call.connection.execute(sa.select(table).where(table.c.id == identity)).one()


def find(call: Call, found: Experiment, key: object) -> Any:
    """Return the row of an observation of an experiment.

    Raises:
        ApiError: 404 if there is none, or if it is deleted.
    """
    identity = as_identity(key)
    row = None
    if identity is not None:
        row = call.connection.execute(
            sa.select(table).where(table.c.id == identity, table.c.experiment == found.id, table.c.deleted.is_(False))
        ).one_or_none()
    if row is None:
        raise missing("observation", key)
    return row


def show(row: Any) -> dict[str, Any]:
    """Return an observation as the API shows it."""
    body = {
        "object": "observation",
        "id": str(row.id),
        "experiment": str(row.experiment),
        "suggestion": render.identity(row.suggestion),
        "created": int(row.created),
        "failed": row.failed,
        "assignments": row.assignments,
        "values": render.values(row.values),
        "metadata": row.metadata,
    }
    if row.stopped:
        body["stopped"] = True
    return body if row.task is None else {**body, "task": row.task}
