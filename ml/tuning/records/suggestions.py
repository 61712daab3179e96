"""Stored suggestions: who has which, and until when."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from ml.tuning import budget, render, schema
from ml.tuning.call import Call
from ml.tuning.definition import Value
from ml.tuning.errors import missing
from ml.tuning.experiment import Experiment, Task
from ml.tuning.parse.assignments import accepted, in_space
from ml.tuning.records import queue, studies
from ml.tuning.values import as_identity, as_text

WORKER_KEY, MAX_WORKER = "evergreen_worker", 100

table = schema.suggestions


def take(
    call: Call,
    found: Experiment,
    *,
    assignments: Mapping[str, Value] | None = None,
    task: Task | None = None,
    metadata: Mapping[str, Any] | None = None,
    limited: bool | None = None,
) -> Any:
    """Return the suggestion that the caller tries next.

    A worker with an open suggestion gets it again, unless an update of the parameters has excluded it: it is then deleted, and
    a result of it is still accepted. Otherwise the suggestion is new: the given assignments, else the first of the queue, else
    the search engine's.

    Args:
        call: The call, whose transaction has locked the experiment.
        found: The experiment, which must be active.
        assignments: Assignments that the caller has chosen.
        task: Task that the caller has chosen.
        metadata: Metadata of the suggestion. The key `evergreen_worker` names the worker.
        limited: Whether the budget limits the caller; by default it limits workers with a name.

    Returns:
        The row of the suggestion.

    Raises:
        ApiError: 409 if the caller is limited and no budget is left.
    """
    worker = worker_of(call, metadata)
    limited = worker is not None if limited is None else limited
    own = _own(call, found, worker) if assignments is None else None
    if own is not None and not _is_current(own, found):
        delete(call, table.c.id == own.id)
        own = None
    if own is not None:
        if limited and own.deadline <= call.now:
            budget.require(call, found, _task(own), without=own.id)
        renew(call, own.id)
        return load(call, own.id)
    source: str = "caller"
    if assignments is None:
        queued = queue.first(call, found)
        if queued is not None:
            source, assignments, task = "queue", queued.assignments, task or _task(queued)
        else:
            source, task = "engine", task or studies.next_task(call, found)
    if limited:
        budget.require(call, found, task)
    if source == "queue":
        queue.close(call, queued.id, "served")  # type: ignore[union-attr]
    if assignments is None:
        assignments = call.propose(*studies.studies(call, found), found.id)
    columns = {
        "experiment": found.id,
        "assignments": dict(assignments),
        "task": None if task is None else render.task(task),
        "metadata": None if metadata is None else dict(metadata),
        "source": source,
        "worker": worker,
        "deadline": call.leases.deadline(worker, call.now),
        "state": "open",
        "deleted": False,
        "created": call.now,
    }
    result = call.connection.execute(table.insert().values(columns))
    return load(call, result.inserted_primary_key[0])  # type: ignore[index]


def worker_of(call: Call, metadata: Mapping[str, Any] | None) -> str | None:
    """Return the name of the worker that calls, from the request or from metadata."""
    if call.caller.worker is not None or metadata is None or metadata.get(WORKER_KEY) is None:
        return call.caller.worker
    return as_text(metadata[WORKER_KEY], f"metadata.{WORKER_KEY}", limit=MAX_WORKER)


def renew(call: Call, identity: int) -> None:
    """Start the lease of a suggestion again, because its worker has reported."""
    worker = call.connection.scalar(sa.select(table.c.worker).where(table.c.id == identity))
    deadline = call.leases.deadline(worker, call.now)
    call.connection.execute(table.update().where(table.c.id == identity).values(deadline=deadline))


def close(call: Call, identity: int) -> None:
    """Record that a suggestion has a result."""
    call.connection.execute(table.update().where(table.c.id == identity).values(state="closed"))


def delete(call: Call, *conditions: sa.ColumnElement[bool]) -> None:
    """Delete suggestions. They no longer count against the budget, but results of them are still accepted."""
    call.connection.execute(table.update().where(*conditions).values(deleted=True))


def load(call: Call, identity: int) -> Any:
    """Return the row of a suggestion that is known to exist."""
    return call.connection.execute(sa.select(table).where(table.c.id == identity)).one()


def find(call: Call, found: Experiment, key: object) -> Any:
    """Return the row of a suggestion of an experiment.

    Raises:
        ApiError: 404 if there is none.
    """
    identity = as_identity(key)
    row = None
    if identity is not None:
        row = call.connection.execute(
            sa.select(table).where(table.c.id == identity, table.c.experiment == found.id)
        ).one_or_none()
    if row is None:
        raise missing("suggestion", key)
    return row


def show(row: Any) -> dict[str, Any]:
    """Return a suggestion as the API shows it, with the lease of a worker that named itself."""
    body = {
        "object": "suggestion",
        "id": str(row.id),
        "experiment": str(row.experiment),
        "created": int(row.created),
        "deleted": row.deleted,
        "state": row.state,
        "assignments": row.assignments,
        "metadata": row.metadata,
    }
    if row.task is not None:
        body["task"] = row.task
    if row.worker is not None:
        body["lease"] = {"object": "lease", "worker": row.worker, "expires": int(row.deadline)}
    return body


def _own(call: Call, found: Experiment, worker: str | None) -> Any:
    """Return the newest open suggestion of a worker, if it has one."""
    if worker is None:
        return None
    query = sa.select(table).where(
        table.c.experiment == found.id, table.c.worker == worker, table.c.state == "open", table.c.deleted.is_(False)
    )
    return call.connection.execute(query.order_by(table.c.id.desc()).limit(1)).one_or_none()


def _is_current(row: Any, found: Experiment) -> bool:
    """Whether the parameters still allow a suggestion. Values that a user chose can lie outside the bounds."""
    if row.source == "engine":
        return in_space(row.assignments, found.space) == row.assignments
    return accepted(row.assignments, found.space) is not None


def _task(row: Any) -> Task | None:
    return None if row.task is None else Task(row.task["name"], row.task["cost"])
