"""Checkpoints of a run: its metrics while it trains, and whether it should stop."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from ml.tuning import render, schema
from ml.tuning.call import Call
from ml.tuning.errors import ApiError, missing
from ml.tuning.pages import page
from ml.tuning.parse.assignments import metadata
from ml.tuning.parse.experiments import require_active
from ml.tuning.parse.metrics import any_values, by_name
from ml.tuning.records import experiments
from ml.tuning.router import Route
from ml.tuning.runs import outcome
from ml.tuning.runs import table as runs
from ml.tuning.runs.early_stop import Progress, stopping_reasons
from ml.tuning.values import Reader, as_identity

MAX_CHECKPOINTS = 200
table = schema.checkpoints


def create(call: Call) -> dict[str, Any]:
    """Store a checkpoint. The response says whether the run should stop, and which rules say so."""
    run = runs.requested(call, lock=True)
    reader = Reader(call.data)
    columns = {"training_run": run["id"], "values": any_values(reader), "metadata": metadata(reader), "created": call.now}
    reader.close()
    if run["observation"] is not None:
        raise ApiError(403, f"The run {run['id']} has ended, so it cannot have new checkpoints")
    own = sa.select(table.c["values"]).where(table.c.training_run == run["id"]).order_by(table.c.id)
    stored = [by_name(values, "value") for values in call.connection.scalars(own)]
    if len(stored) >= MAX_CHECKPOINTS:
        raise ApiError(403, f"The run {run['id']} has {MAX_CHECKPOINTS} checkpoints, which is the largest number")
    columns["stopping_reasons"] = _reasons(call, run, [*stored, by_name(columns["values"], "value")])
    runs.touch(call, run)
    outcome.settle(call, run)
    return _shown(call.connection.execute(table.insert().values(columns).returning(*table.c)).one())


def fetch(call: Call) -> dict[str, Any]:
    """Fetch a checkpoint."""
    run, key = runs.requested(call), call.arguments["checkpoint"]
    query = sa.select(table).where(table.c.training_run == run["id"], table.c.id == as_identity(key))
    row = call.connection.execute(query).one_or_none()
    if row is None:
        raise missing("checkpoint", key)
    return _shown(row)


def listed(call: Call) -> dict[str, Any]:
    """List the checkpoints of a run."""
    query = sa.select(table).where(table.c.training_run == runs.requested(call)["id"])
    return page(call.connection, query, table.c.id, call.data, _shown)


def _reasons(call: Call, run: runs.Run, checkpoints: list[dict[str, float]]) -> dict[str, bool]:
    """Apply the rules of early stopping to a run of an experiment, with its checkpoints up to the new one."""
    if run["experiment"] is None:
        return {}
    found = experiments.load(call, run["experiment"])
    require_active(found, "checkpoints")
    columns = runs.table.c
    rivals = columns.experiment == found.id, columns.id != run["id"], columns.deleted.is_(False)
    selected = sa.select(columns.id, columns["values"]).where(*rivals, columns.state == "completed")
    final = {key: by_name(values or {}, "value") for key, values in call.connection.execute(selected).tuples()}
    before = [{}] * (len(checkpoints) - 1)  # runs are only compared at the newest checkpoint
    same = _same_checkpoint(call, len(checkpoints), *rivals)
    progress = [Progress([*before, values], final.get(key, {})) for key, values in same.items()]
    return stopping_reasons(found.metrics, Progress(checkpoints), progress)


def _same_checkpoint(call: Call, number: int, *conditions: sa.ColumnElement[bool]) -> dict[int, dict[str, float]]:
    """Return values by metric at the n-th checkpoint of each run that has one."""
    order = sa.func.row_number().over(partition_by=table.c.training_run, order_by=table.c.id).label("number")
    joined = sa.select(table.c.training_run, table.c["values"], order).join(runs.table, runs.table.c.id == table.c.training_run)
    numbered = joined.where(*conditions).subquery()
    selected = sa.select(numbered.c.training_run, numbered.c["values"]).where(numbered.c.number == number)
    return {run: by_name(values, "value") for run, values in call.connection.execute(selected).tuples()}


def _shown(row: sa.Row) -> dict[str, Any]:
    reasons = row.stopping_reasons or {}
    return {
        "object": "checkpoint",
        "id": render.identity(row.id),
        "training_run": render.identity(row.training_run),
        "created": int(row.created),
        "values": render.values(row._mapping["values"]),
        "metadata": row.metadata,
        "should_stop": any(reasons.values()),
        "stopping_reasons": reasons,
    }


ROUTES = (
    Route("POST", "training_runs/{run}/checkpoints", create),
    Route("GET", "training_runs/{run}/checkpoints", listed),
    Route("GET", "training_runs/{run}/checkpoints/{checkpoint}", fetch),
)
