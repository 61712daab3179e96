"""Checkpoints of a suggestion: the metrics of its trial while it trains, and whether the trial should stop.

SigOpt has checkpoints of runs only. Those of suggestions have a step, so that trials are compared at the same point of their
training although reports can be lost or repeated.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from ml.tuning import render, schema
from ml.tuning.call import Call
from ml.tuning.errors import ApiError
from ml.tuning.experiment import Experiment
from ml.tuning.handlers.suggestions import PATH, requested
from ml.tuning.pages import page
from ml.tuning.parse.assignments import metadata
from ml.tuning.parse.metrics import any_values, by_name
from ml.tuning.records import experiments, observations, suggestions
from ml.tuning.router import Route
from ml.tuning.runs.early_stop import Progress, Values, stopping_reasons
from ml.tuning.values import Reader

MAX_STEP = 200
table = schema.suggestion_checkpoints


def create(call: Call) -> dict[str, Any]:
    """Store a checkpoint, and renew the lease. The response says whether the trial should stop, and which rules say so.

    The first report of a step counts. A repeated one returns what is stored.
    """
    found = requested(call, "checkpoints")
    suggestion = suggestions.find(call, found, call.arguments["suggestion"])
    reader = Reader(call.data)
    step = reader.integer("step", least=1, most=MAX_STEP)
    columns = {"suggestion": suggestion.id, "step": step, "values": any_values(reader), "metadata": metadata(reader)}
    reader.close()
    if not columns["values"]:
        raise reader.error("values", "must have at least one value")
    own = sa.select(table).where(table.c.suggestion == suggestion.id)
    stored = call.connection.execute(own.where(table.c.step == step)).one_or_none()
    if stored is None:
        if observations.of_suggestion(call, suggestion.id) is not None:
            raise ApiError(403, f"The suggestion {suggestion.id} has a result, so it cannot have new checkpoints")
        columns |= {"stopping_reasons": _reasons(call, found, columns), "created": call.now}
        call.connection.execute(table.insert().values(columns))
        stored = call.connection.execute(own.where(table.c.step == step)).one()
    suggestions.renew(call, suggestion.id)
    return _shown(stored)


def listed(call: Call) -> dict[str, Any]:
    """List the checkpoints of a suggestion, the last step first."""
    suggestion = suggestions.find(call, experiments.requested(call), call.arguments["suggestion"])
    return page(call.connection, sa.select(table).where(table.c.suggestion == suggestion.id), table.c.step, call.data, _shown)


def _reasons(call: Call, found: Experiment, new: dict[str, Any]) -> dict[str, bool]:
    """Apply the rules of early stopping to a trial with a new checkpoint. Others are only compared at the same step."""
    tried, observed = schema.suggestions, schema.observations
    selected = (
        sa.select(table.c.suggestion, table.c.step, table.c["values"])
        .join(tried, tried.c.id == table.c.suggestion)
        .where(tried.c.experiment == found.id, tried.c.deleted.is_(False), table.c.step <= new["step"])
        .where(sa.or_(table.c.step == new["step"], table.c.suggestion == new["suggestion"]))
    )
    steps: dict[int, dict[int, Values]] = {new["suggestion"]: {new["step"]: by_name(new["values"], "value")}}
    for suggestion, step, values in call.connection.execute(selected).tuples():
        steps.setdefault(suggestion, {})[step] = by_name(values, "value")
    ended = sa.select(observed.c.suggestion, observed.c["values"]).where(
        observed.c.experiment == found.id,
        observed.c.suggestion.is_not(None),
        observed.c.failed.is_(False),
        observed.c.deleted.is_(False),
    )
    final = {suggestion: by_name(values, "value") for suggestion, values in call.connection.execute(ended).tuples()}
    progress = {key: Progress(_in_order(reported), final.get(key, {})) for key, reported in steps.items()}
    own = progress.pop(new["suggestion"])
    return stopping_reasons(found.metrics, own, list(progress.values()))


def _in_order(steps: dict[int, Values]) -> list[Values]:
    """Return the values at each step up to the last one; empty where a step was not reported."""
    return [steps.get(step, {}) for step in range(1, max(steps) + 1)]


def _shown(row: sa.Row) -> dict[str, Any]:
    reasons = row.stopping_reasons or {}
    return {
        "object": "checkpoint",
        "suggestion": render.identity(row.suggestion),
        "step": row.step,
        "created": int(row.created),
        "values": render.values(row._mapping["values"]),
        "metadata": row.metadata,
        "should_stop": any(reasons.values()),
        "stopping_reasons": reasons,
    }


ROUTES = (
    Route("POST", PATH + "/{suggestion}/checkpoints", create),
    Route("GET", PATH + "/{suggestion}/checkpoints", listed),
)
