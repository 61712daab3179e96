"""Observations of the core module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from ml.tuning import render, schema
from ml.tuning.call import Call
from ml.tuning.errors import ApiError, invalid
from ml.tuning.experiment import Experiment
from ml.tuning.handlers.suggestions import requested
from ml.tuning.pages import flag, page
from ml.tuning.parse.assignments import assignments, metadata
from ml.tuning.parse.experiments import task_of
from ml.tuning.parse.metrics import values
from ml.tuning.records import experiments, observations, suggestions
from ml.tuning.router import Route
from ml.tuning.sorted_pages import Key, sort_key, sorted_page
from ml.tuning.values import Reader

PATH = "experiments/{experiment}/observations"
MAX_BATCH = 2500


def create(call: Call) -> dict[str, Any]:
    """Report the result of a suggestion, or of explicit assignments."""
    found = requested(call, "observations")
    row = observations.record(call, found, **_parsed(call, found, Reader(call.data)))
    experiments.touch(call, found.id)
    return observations.show(row)


def create_batch(call: Call) -> dict[str, Any]:
    """Report many results at once: all of them, or none if one is invalid."""
    found = requested(call, "observations")
    reader = Reader(call.data)
    items = reader.items("observations", required=True)
    if len(items) > MAX_BATCH:
        raise reader.error("observations", f"can have at most {MAX_BATCH} observations; use several calls")
    dry = reader.flag("dry_run")
    reader.flag("no_optimize")
    reader.close()
    parsed = [_parsed(call, found, Reader(item, path)) for path, item in items]
    if dry:
        return render.pagination([])
    rows = [observations.record(call, found, **one) for one in parsed]
    experiments.touch(call, found.id)
    return render.pagination(observations.show(row) for row in rows)


def _parsed(call: Call, found: Experiment, reader: Reader) -> dict[str, Any]:
    """Return the arguments of `observations.record`."""
    named = _named_suggestion(call, found, reader)
    given = reader.has("assignments")
    if (named is not None) == given:
        raise reader.error("suggestion", "exactly one of suggestion and assignments is required")
    chosen = assignments(reader.raw("assignments"), found.space, reader.path("assignments")) if given else None
    reader.flag("no_optimize")
    stopped = reader.flag("stopped")
    if stopped and named is None:
        raise reader.error("stopped", "only the trial of a suggestion can be stopped early")
    parsed = {
        "suggestion": named,
        "assignments": chosen,
        "values": _values(found, reader, stopped=stopped),
        "stopped": stopped,
        "task": task_of(reader, found),
        "metadata": metadata(reader),
    }
    reader.close()
    return parsed


def _named_suggestion(call: Call, found: Experiment, reader: Reader) -> Any:
    identity = reader.identity("suggestion")
    if identity is None:
        return None
    try:
        return suggestions.find(call, found, identity)
    except ApiError as error:
        raise reader.error("suggestion", f"there is no suggestion {identity} in experiment {found.id}") from error


def _values(found: Experiment, reader: Reader, *, stopped: bool = False) -> dict[str, dict[str, float]] | None:
    """Return the measured values, None for a failure or a trial that was stopped early.

    The keys `value` and `value_stddev` of the observation are the older spelling for experiments with one metric.
    """
    failed = reader.flag("failed") or stopped
    single = {key: reader.raw(key) for key in ("value", "value_stddev") if reader.has(key)}
    listed = reader.items("values")
    if failed and (single or listed):
        which, what = ("stopped", "a stopped") if stopped else ("failed", "a failed")
        raise reader.error(which, f"{what} observation cannot have values")
    if failed:
        return None
    if single and listed:
        raise reader.error("value", "cannot be combined with values")
    if single:
        return values(Reader({"values": [single]}, reader.path("")), found.metrics)
    return values(reader, found.metrics)


def listed(call: Call) -> dict[str, Any]:
    """List observations, newest first; with `deleted` the deleted ones.

    `sort` orders them by `id`, `value-METRIC`, `value_stddev-METRIC` or `parameter-NAME`. Those without the value come first,
    as in SigOpt, where they count as infinite. `value` and `value_stddev` mean the first optimized metric.
    """
    found, table = experiments.requested(call), schema.observations
    query = sa.select(table).where(table.c.experiment == found.id, table.c.deleted.is_(flag(call.data, "deleted")))
    sort = str(call.data.get("sort", "id"))
    if sort == "id":
        return page(call.connection, query, table.c.id, call.data, observations.show)
    value = _sorted_by(found, sort)
    keyed = [(_key(value(row), row.id), row) for row in call.connection.execute(query)]
    return sorted_page(keyed, call.data, observations.show)


def _sorted_by(found: Experiment, sort: str) -> Callable[[Any], Any]:
    """Return the function of a row that yields the value of a sort field."""
    kind, _, name = sort.partition("-")
    names = {*(one.name for one in found.space.parameters), *(one.name for one in found.space.conditionals)}
    if kind == "parameter" and name in names:
        return lambda row: row.assignments.get(name)
    if "-" not in sort:
        name = next((metric.name for metric in (*found.optimized, *found.metrics)), "")
    if kind in ("value", "value_stddev") and name in {metric.name for metric in found.metrics}:
        return lambda row: row._mapping["values"].get(name, {}).get(kind)
    raise invalid("sort", f"must be id, value-METRIC, value_stddev-METRIC or parameter-NAME, not {sort}")


def _key(value: Any, identity: int) -> Key:
    return (True, "\U0010ffff", identity) if value is None else sort_key(value, identity)


def fetch(call: Call) -> dict[str, Any]:
    """Fetch an observation."""
    return observations.show(_requested(call, experiments.requested(call)))


def update(call: Call) -> dict[str, Any]:
    """Change an observation: only the keys that are given."""
    found = experiments.requested(call, lock=True)
    row, reader = _requested(call, found), Reader(call.data)
    columns: dict[str, Any] = {}
    named = _named_suggestion(call, found, reader)
    if named is not None and named.id != row.suggestion:
        other = observations.of_suggestion(call, named.id)
        if other is not None:
            raise reader.error("suggestion", f"suggestion {named.id} has the observation {other.id}")
        columns |= {"suggestion": named.id, "assignments": named.assignments}
        suggestions.close(call, named.id)
    if reader.has("assignments"):
        if named is not None:
            raise reader.error("assignments", "cannot be combined with suggestion")
        columns |= {"suggestion": None, "assignments": assignments(reader.raw("assignments"), found.space)}
    columns |= _updated_values(found, row, reader)
    if reader.present("metadata"):
        columns["metadata"] = metadata(reader)
    task = task_of(reader, found)
    if task is not None:
        columns["task"] = render.task(task)
    reader.flag("no_optimize")
    reader.close()
    if columns:
        table = schema.observations
        call.connection.execute(table.update().where(table.c.id == row.id).values(columns))
        experiments.touch(call, found.id)
    return observations.show(observations.load(call, row.id))


def _updated_values(found: Experiment, row: Any, reader: Reader) -> dict[str, Any]:
    """Return the changed columns `values` and `failed`."""
    measured = any(reader.has(key) for key in ("values", "value"))
    failed = reader.flag("failed") if reader.has("failed") else row.failed and not measured
    if not measured and failed == row.failed:
        return {}
    merged = {"failed": failed, **({key: reader.raw(key) for key in ("values", "value", "value_stddev") if reader.has(key)})}
    found_values = _values(found, Reader(merged))
    return {"values": found_values or {}, "failed": found_values is None, "stopped": False}


def delete(call: Call) -> dict[str, Any]:
    """Delete an observation, which returns its budget."""
    found = experiments.requested(call, lock=True)
    _delete(call, found, schema.observations.c.id == _requested(call, found).id)
    return {}


def delete_all(call: Call) -> dict[str, Any]:
    """Delete all observations of an experiment."""
    found = experiments.requested(call, lock=True)
    flag(call.data, "no_optimize")
    _delete(call, found, schema.observations.c.experiment == found.id)
    return {}


def _delete(call: Call, found: Experiment, condition: sa.ColumnElement[bool]) -> None:
    if found.runs_only:
        raise invalid("", "cannot delete observations of runs; delete the runs instead")
    call.connection.execute(schema.observations.update().where(condition).values(deleted=True))
    experiments.touch(call, found.id)


def _requested(call: Call, found: Experiment) -> Any:
    return observations.find(call, found, call.arguments["observation"])


ROUTES = (
    Route("POST", PATH, create),
    Route("POST", PATH + "/batch", create_batch),
    Route("GET", PATH, listed),
    Route("DELETE", PATH, delete_all),
    Route("GET", PATH + "/{observation}", fetch),
    Route("PUT", PATH + "/{observation}", update),
    Route("DELETE", PATH + "/{observation}", delete),
)
