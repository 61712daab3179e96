"""Queued suggestions: assignments that users want to be tried next."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from ml.tuning import schema
from ml.tuning.call import Call
from ml.tuning.experiment import Experiment
from ml.tuning.parse.assignments import in_space, same_values

table = schema.queued_suggestions


def first(call: Call, found: Experiment) -> Any:
    """Return the row of the oldest queued suggestion, None if the queue is empty."""
    query = sa.select(table).where(table.c.experiment == found.id, table.c.state == "open")
    return call.connection.execute(query.order_by(table.c.id).limit(1)).one_or_none()


def close(call: Call, identity: int, state: str) -> None:
    """Remove a suggestion from the queue: `served` or `deleted`."""
    call.connection.execute(table.update().where(table.c.id == identity).values(state=state))


def revise(call: Call, before: Experiment, after: Experiment) -> None:
    """Adapt the queue to an update of the parameters.

    What the update excludes is removed from the queue. The others get the default values of added parameters, and lose the
    values of removed ones. A user can queue values outside the bounds: they stay if the update leaves those bounds as they are.
    """
    waiting = sa.select(table.c.id, table.c.assignments).where(table.c.experiment == after.id, table.c.state == "open")
    unchanged = same_values(before.space, after.space)
    for identity, stored in call.connection.execute(waiting).all():
        adapted = in_space(stored, after.space, unchanged)
        changes = {"state": "outdated"} if adapted is None else {"assignments": adapted}
        call.connection.execute(table.update().where(table.c.id == identity).values(changes))


def show(row: Any) -> dict[str, Any]:
    """Return a queued suggestion as the API shows it."""
    body = {
        "object": "queued_suggestion",
        "id": str(row.id),
        "experiment": str(row.experiment),
        "created": int(row.created),
        "assignments": row.assignments,
    }
    return body if row.task is None else {**body, "task": row.task}
