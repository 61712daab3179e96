"""What a run means for its experiment: the suggestion that it tries and the observation that it becomes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml.tuning import schema
from ml.tuning.call import Call
from ml.tuning.experiment import Experiment
from ml.tuning.parse.assignments import accepted
from ml.tuning.records import experiments, observations, suggestions
from ml.tuning.runs import table as runs
from ml.tuning.runs.fields import FINISHED, SERVED, apply
from ml.tuning.runs.table import Run


def create(call: Call, found: Experiment, columns: Mapping[str, Any]) -> Run:
    """Store a new run of an experiment.

    A run without assignments tries the next suggestion. A run with assignments of all parameters tries these. A run that is
    created with its result becomes an observation at once. A worker with a name that has an active run gets that run again.

    Args:
        call: The call, whose transaction has locked the experiment.
        found: The experiment, which must be active.
        columns: Columns of the run.

    Returns:
        The run.

    Raises:
        ApiError: 409 if no budget is left.
    """
    given = columns.get("assignments") or {}
    names = {*(one.name for one in found.space.conditionals), *(one.name for one in found.space.parameters)}
    relevant = {name: value for name, value in given.items() if name in names}
    chosen = accepted(relevant, found.space) if relevant else None  # SigOpt ignores assignments that are not valid
    own: dict[str, Any] = {"experiment": found.id}
    if columns.get("state") in FINISHED:
        if chosen is not None:
            values = _values(found, columns)
            own["observation"] = observations.record(call, found, assignments=chosen, values=values).id
    elif chosen is not None or not relevant:
        taken = suggestions.take(call, found, assignments=chosen, metadata=columns.get("metadata"), limited=True)
        active = runs.selected(
            call, runs.table.c.suggestion == taken.id, runs.table.c.state == "active", runs.table.c.deleted.is_(False)
        )
        if active:
            return runs.save(call, active[0]["id"], apply(active[0], columns, merge=True))
        own |= {
            "suggestion": taken.id,
            "assignments": {**given, **taken.assignments},
            "assignments_meta": {
                **(columns.get("assignments_meta") or {}),
                **{name: {"source": SERVED} for name in taken.assignments},
            },
            "assignments_sources": {
                **(columns.get("assignments_sources") or {}),
                SERVED: {"sort": 1, "default_show": True},
            },
        }
    (identity,) = runs.insert(call, found.project or "", [{**columns, **own}])
    return runs.load(call, identity)


def settle(call: Call, run: Run) -> Run:
    """Renew the lease of a run that has reported, or record the observation of a run that has ended.

    Args:
        call: The call, whose transaction has locked the experiment.
        run: The run.

    Returns:
        The run.
    """
    if run["suggestion"] is None or run["observation"] is not None or run["deleted"]:
        return run
    if run["state"] not in FINISHED:
        suggestions.renew(call, run["suggestion"])
        return run
    found = experiments.load(call, run["experiment"])
    tried = suggestions.load(call, run["suggestion"])
    observed = observations.record(call, found, suggestion=tried, values=_values(found, run))
    experiments.touch(call, found.id)
    return runs.save(call, run["id"], {"observation": observed.id})


def set_deleted(call: Call, run: Run, *, deleted: bool) -> None:
    """Archive or restore the suggestion and the observation of a run, which the engine then ignores or sees again."""
    for table, key in ((schema.suggestions, run["suggestion"]), (schema.observations, run["observation"])):
        if key is not None:
            call.connection.execute(table.update().where(table.c.id == key).values(deleted=deleted))


def _values(found: Experiment, run: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the values of the experiment's metrics; None for a failure, also if a metric has no value."""
    measured = run.get("values") or {}
    names = [metric.name for metric in found.metrics]
    if run["state"] == "failed" or not all(name in measured for name in names):
        return None
    return {name: measured[name] for name in names}
