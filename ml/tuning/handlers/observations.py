"""Observations of the core module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa

from ml.tuning import render, schema
from ml.tuning.call import Call
from ml.tuning.errors import ApiError, invalid
from ml.tuning.experiment import Experiment, Task
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
        "task": _task(found, reader, chosen=given),
        "metadata": metadata(reader),
    }
    reader.close()
    return parsed


def _task(found: Experiment, reader: Reader, *, chosen: bool) -> Task | None:
    """Return the task of an observation, which it needs if the caller has chosen the assignments."""
    task = task_of(reader, found)
    if found.tasks and chosen and task is None:
        raise reader.error("task", "is required, because the experiment has tasks")
    return task


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
    columns = {**_updated_assignments(call, found, row, reader), **_updated_values(found, row, reader)}
    if reader.present("metadata"):
        columns["metadata"] = metadata(reader)
    reader.flag("no_optimize")
    reader.close()
    if columns:
        table = schema.observations
        call.connection.execute(table.update().where(table.c.id == row.id).values(columns))
        experiments.touch(call, found.id)
    return observations.show(observations.load(call, row.id))


def _updated_assignments(call: Call, found: Experiment, row: Any, reader: Reader) -> dict[str, Any]:
    """Return the changed columns `suggestion`, `assignments` and `task`.

    Before and after, an observation has either a suggestion or assignments and, with several tasks, a task of its own. An
    observation of a run keeps its suggestion, because it is archived and restored with the run.
    """
    suggestion = reader.identity("suggestion") if reader.present("suggestion") else row.suggestion
    own = None if row.suggestion is not None else row.assignments
    chosen = reader.raw("assignments") if reader.present("assignments") else own
    if (suggestion is None) == (chosen is None):
        raise reader.error("suggestion", "exactly one of suggestion and assignments is required; set the other one to null")
    if found.runs_only and suggestion != row.suggestion:
        raise reader.error("suggestion", "cannot be changed, because the observation belongs to a run")
    task = task_of(reader, found)
    if suggestion is not None:
        if task is not None:
            raise reader.error("task", "cannot be combined with a suggestion, which has one")
        if suggestion == row.suggestion:
            return {}
        named = _named_suggestion(call, found, reader)
        other = observations.of_suggestion(call, named.id)
        if other is not None:
            raise reader.error("suggestion", f"suggestion {named.id} has the observation {other.id}")
        suggestions.close(call, named.id)
        return {"suggestion": named.id, "assignments": named.assignments, "task": named.task}
    columns = {} if chosen is own else {"suggestion": None, "assignments": assignments(chosen, found.space)}
    if task is not None:
        return {**columns, "task": render.task(task)}
    if found.tasks and row.suggestion is not None:
        raise reader.error("task", "is required, because the experiment has tasks")
    return columns


def _updated_values(found: Experiment, row: Any, reader: Reader) -> dict[str, Any]:
    """Return the changed columns `values` and `failed`. A value without `value_stddev` keeps the stored one."""
    keys = ("values", "value", "value_stddev")
    given = {key: reader.raw(key) for key in keys if reader.has(key)}
    changed = [reader.present(key) for key in keys]
    failed = reader.flag("failed") if reader.present("failed") else row.failed
    measured = bool(given) if any(changed) else not row.failed
    if failed and measured:
        raise reader.error("failed", "a failed observation cannot have values; set values to null")
    if not failed and not measured:
        raise reader.error("values", "is required, because the observation did not fail")
    if not any(changed):
        return {}
    if failed:
        return {"values": {}, "failed": True, "stopped": row.stopped}
    if "value" in given:
        given = _with_deviation(found, row, given)
    elif isinstance(given.get("values"), list | tuple):
        given["values"] = [_with_deviation(found, row, item) for item in given["values"]]
    return {"values": _values(found, Reader(given)), "failed": False, "stopped": False}


def _with_deviation(found: Experiment, row: Any, item: Any) -> Any:
    if not isinstance(item, Mapping) or "value_stddev" in item:
        return item
    name = item.get("name") or found.metrics[0].name
    stored = row._mapping["values"].get(name, {}) if isinstance(name, str) else {}
    return {**item, "value_stddev": stored.get("value_stddev")}


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
