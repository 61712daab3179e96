"""Reads experiments."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ml.tuning.definition import Metric, Parameter, Space
from ml.tuning.errors import ApiError, invalid
from ml.tuning.experiment import Experiment, Task
from ml.tuning.parse.assignments import metadata, within
from ml.tuning.parse.metrics import metrics
from ml.tuning.parse.metrics import updated as updated_metrics
from ml.tuning.parse.parameters import parameters, space
from ml.tuning.render import parameter as rendered
from ml.tuning.values import MAX_COUNT, Reader, as_text

MAX_NAME = 100
MAX_GRID = 100_000  # combinations of a grid search


def experiment(data: Mapping[str, Any], *, in_project: bool = False) -> Experiment:
    """Return the experiment of a create request.

    Args:
        data: The body of the request. In the core module, `runs_only` creates an experiment of the AI module, where the budget
            has another key.
        in_project: Whether it comes from the AI module, where the project is in the path.
    """
    reader = Reader(data)
    runs_only = in_project or reader.flag("runs_only")
    name = reader.text("name", limit=MAX_NAME)
    kind = reader.optional_text("type", choices=("offline", "random", "grid")) or "offline"
    project = None if in_project else project_id(reader)
    if runs_only and not in_project and project is None:
        raise reader.error("project", "is required for an experiment of runs")
    if runs_only and not reader.raw("metrics"):
        raise reader.error("metrics", "is required")
    found = Experiment(
        name=name,
        space=space(reader, grid=kind == "grid"),
        metrics=metrics(reader),
        kind=kind,  # type: ignore[arg-type]
        budget=_budget(reader, runs_only=runs_only),
        bandwidth=reader.optional_integer("parallel_bandwidth", least=1, most=MAX_COUNT),
        num_solutions=reader.optional_integer("num_solutions", least=1, most=MAX_COUNT),
        tasks=_tasks(reader),
        metadata=metadata(reader),
        project=project,
        runs_only=runs_only,
    )
    if runs_only and not all(metric.name for metric in found.metrics):
        raise invalid("metrics[0].name", "is required")
    reader.close()
    _check_defaults(found.space)
    if kind == "grid":
        found = _grid_budget(found, reader)
    _check(found, reader)
    return found


def update(data: Mapping[str, Any], current: Experiment) -> Experiment:
    """Return an experiment after an update. Keys that are absent keep their values."""
    reader = Reader(data)
    reader.flag("no_optimize")
    fixed = ("linear_constraints", "constraints", "num_solutions", "conditionals", "tasks", "type", "runs_only")
    for key in fixed:
        if reader.present(key):
            raise reader.error(key, "cannot be changed")
    for key in ("metrics", "parameters"):
        if reader.present(key) and not reader.has(key):
            raise reader.error(key, "cannot be removed")
    changes: dict[str, Any] = {}
    if reader.has("name"):
        changes["name"] = reader.text("name", limit=MAX_NAME)
    if reader.has("state"):
        changes["state"] = reader.text("state", choices=("active", "deleted"))
    if reader.present("project"):
        changes["project"] = project_id(reader)
        if current.runs_only and changes["project"] != current.project:
            raise reader.error("project", "cannot be changed")
    if reader.present(current.budget_key):
        changes["budget"] = _updated_budget(reader, current)
    if reader.present("parallel_bandwidth"):
        changes["bandwidth"] = reader.optional_integer("parallel_bandwidth", least=1, most=MAX_COUNT)
    if reader.present("metadata"):
        changes["metadata"] = metadata(reader)
    if reader.has("metrics"):
        changes["metrics"] = updated_metrics(reader, current.metrics)
    if reader.has("parameters"):
        changes["space"] = _updated_space(reader, current)
    reader.ignore("name", "state", "metrics", "parameters", *fixed)
    reader.close()
    return replace(current, **changes)


def project_id(reader: Reader, key: str = "project") -> str | None:
    """Return the id of a project, or None if it is absent."""
    given = reader.optional_text(key, limit=MAX_NAME)
    if given is not None and not re.fullmatch(r"[a-z0-9\-_.]+", given):
        raise reader.error(key, "can only have lowercase letters, digits, hyphens, underscores and periods")
    return given


def _budget(reader: Reader, *, runs_only: bool) -> float | None:
    return reader.optional_integer("budget" if runs_only else "observation_budget", least=1)


def _updated_budget(reader: Reader, current: Experiment) -> float | None:
    key = current.budget_key
    budget = _budget(reader, runs_only=current.runs_only)
    if budget == current.budget:
        return budget
    for wrong, what in (
        (current.kind == "grid", "grid search experiments"),
        (len(current.optimized) > 1, "experiments with more than one optimized metric"),
        ((current.num_solutions or 1) > 1, "experiments with more than one solution"),
    ):
        if wrong:
            raise reader.error(key, f"cannot be changed for {what}")
    _check(replace(current, budget=budget), reader)
    return budget


def _updated_space(reader: Reader, current: Experiment) -> Space:
    if current.kind == "grid":
        raise reader.error("parameters", "cannot be changed for grid search experiments")
    before = {parameter.name: parameter for parameter in current.space.parameters}
    completed = [_completed(item, before) for _, item in reader.items("parameters", required=True)]
    parsed = parameters(Reader({"parameters": completed}), current.space.conditionals)
    for index, parameter in enumerate(parsed):
        path = f"parameters[{index}]"
        old = before.get(parameter.name)
        if old is None:
            if parameter.default is None:
                raise reader.error(path, "a parameter that is added needs a default_value")
        elif (old.kind, old.log) != (parameter.kind, parameter.log):
            raise reader.error(path, "type and transformation cannot be changed")
    found = Space(parsed, current.space.conditionals, current.space.constraints)
    _check_defaults(found)
    if current.space.constraints and found != current.space:
        raise reader.error("parameters", "cannot be changed for experiments with linear constraints")
    return found


def _completed(item: Any, before: Mapping[str, Parameter]) -> Any:
    """Return a parameter of an update with the keys of the stored parameter that it leaves out."""
    name = item.get("name") if isinstance(item, Mapping) else None
    if not isinstance(name, str) or name not in before:
        return item
    stored = rendered(before[name])
    for given, replaced in (("grid", "bounds"), ("bounds", "grid")):
        if given in item:
            del stored[replaced]
    return {**stored, **item}


def _check_defaults(space: Space) -> None:
    """Refuse default values that are not within the bounds."""
    for index, one in enumerate(space.parameters):
        if one.default is not None and not within(one, one.default):
            raise invalid(f"parameters[{index}].default_value", f"must be within the bounds, but is {one.default}")


def _tasks(reader: Reader) -> tuple[Task, ...]:
    found = []
    for path, item in reader.items("tasks"):
        entry = Reader(item, path)
        entry.ignore("object")
        task = Task(entry.text("name", limit=MAX_NAME), float(entry.number("cost")))
        entry.close()
        if not 0 < task.cost <= 1:
            raise entry.error("cost", "must be positive and at most 1")
        found.append(task)
    if not found:
        return ()
    if len(found) < 2 or len({task.name for task in found}) < len(found) or len({task.cost for task in found}) < len(found):
        raise reader.error("tasks", "must be at least 2, with distinct names and distinct costs")
    if all(task.cost != 1 for task in found):
        raise reader.error("tasks", "exactly one task must have the cost 1")
    return tuple(found)


def _grid_budget(found: Experiment, reader: Reader) -> Experiment:
    """Return a grid search with its budget, the number of combinations."""
    size = math.prod(len(parameter.grid or parameter.categories) for parameter in found.space.parameters)
    if size > MAX_GRID:
        raise reader.error("parameters", f"a grid search can have at most {MAX_GRID} combinations, but has {size}")
    if found.budget not in (None, size):
        raise reader.error(found.budget_key, f"does not match the number of combinations, {size}")
    return replace(found, budget=size)


def _check(found: Experiment, reader: Reader) -> None:
    """Refuse features that exclude each other."""
    solutions, optimized = found.num_solutions or 1, len(found.optimized)
    constrained = any(metric.strategy == "constraint" for metric in found.metrics)
    if found.budget is None:
        for needed, what in (
            (optimized > 1, "more than one optimized metric"),
            (constrained, "constraint metrics"),
            (solutions > 1, "more than one solution"),
            (bool(found.tasks), "tasks (multitask)"),
        ):
            if needed:
                raise reader.error(found.budget_key, f"is required for an experiment with {what}")
    if solutions > 1:
        problem = _multisolution_problem(found, solutions, found.metrics)
        if problem:
            raise reader.error("num_solutions", problem)
    if found.tasks and (optimized > 1 or constrained or solutions > 1):
        raise reader.error("tasks", "cannot be combined with two optimized metrics, constraint metrics or several solutions")


def _multisolution_problem(found: Experiment, solutions: int, metrics: tuple[Metric, ...]) -> str | None:
    if found.space.conditionals:
        return "conditional experiments cannot have more than one solution"
    if sum(metric.strategy == "optimize" for metric in metrics) != 1:
        return "more than one solution requires exactly one optimized metric"
    if found.budget is not None and solutions > found.budget:
        return f"must not exceed {found.budget_key}, which is {found.budget:g}"
    return None


def require_active(found: Experiment, what: str) -> None:
    """Refuse new suggestions, observations and runs of a deleted experiment."""
    if found.state != "active":
        raise ApiError(400, f"Cannot create {what} for deleted experiment {found.id}")


def task_of(reader: Reader, found: Experiment) -> Task | None:
    """Return the task that a suggestion or observation names, None if it names none.

    Raises:
        ApiError: The experiment has no such task.
    """
    given = reader.raw("task")
    if given is None:
        return None
    if not found.tasks:
        raise reader.error("task", "only experiments with tasks (multitask) can have a task")
    if isinstance(given, Mapping):
        entry = Reader(given, reader.path("task"))
        entry.ignore("object", "cost")
        given = entry.text("name")
        entry.close()
    by_name = {task.name: task for task in found.tasks}
    return by_name[as_text(given, reader.path("task"), choices=tuple(by_name))]
