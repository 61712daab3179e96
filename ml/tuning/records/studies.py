"""Studies for the search engine, rebuilt from the tables."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from ml.hashing import derive_seed
from ml.tuning import schema
from ml.tuning.call import Call
from ml.tuning.definition import Assignments, Observation, Study
from ml.tuning.experiment import Experiment, Task
from ml.tuning.parse.assignments import in_space
from ml.tuning.parse.metrics import by_name


def studies(call: Call, found: Experiment) -> tuple[Study, Study]:
    """Return what an engine knows of an experiment, with and without suggestions whose lease has ended.

    The workers of these suggestions died or are late, so other points are better tried first. Assignments outside the space,
    which a user observed or which were inside it before an update, are omitted.
    """
    table = schema.suggestions
    pending = sa.select(table.c.assignments, table.c.deadline > call.now).where(
        table.c.experiment == found.id, table.c.state == "open", table.c.deleted.is_(False)
    )
    rows = call.connection.execute(pending.order_by(table.c.id)).all()
    inside = [(in_space(assignments, found.space), bool(live)) for assignments, live in rows]
    known = study(call, found, [assignments for assignments, _ in inside if assignments is not None])
    live = tuple(assignments for assignments, live in inside if live and assignments is not None)
    return known, replace(known, open=live)


def study(call: Call, found: Experiment, open_: Sequence[Assignments] = ()) -> Study:
    """Return an experiment with its observations as an engine sees it."""
    return Study(
        space=found.space,
        metrics=found.metrics,
        observations=tuple(_observations(call, found)),
        open=tuple(open_),
        budget=None if found.budget is None else math.ceil(found.budget),
        bandwidth=found.bandwidth or 1,
        kind="random" if found.development else found.kind,
        solutions=found.num_solutions or 1,
        seed=derive_seed("experiment", found.id) % 2**32,
    )


def rows(call: Call, found: Experiment) -> list[Any]:
    """Return the rows of an experiment's observations, in order."""
    table = schema.observations
    query = sa.select(table).where(table.c.experiment == found.id, table.c.deleted.is_(False)).order_by(table.c.id)
    return list(call.connection.execute(query).all())


def full_cost(found: Experiment, rows: Sequence[Any]) -> list[Any]:
    """Return the rows whose values can be the best: with several tasks, only the task that costs 1."""
    return [row for row in rows if not found.tasks or row.task is None or row.task["cost"] == 1]


def observation(row: Any) -> Observation:
    """Return the observation of a row, with its assignments as they were reported."""
    values, deviations = (by_name(row.values, key) for key in ("value", "value_stddev"))
    return Observation(row.assignments, values, deviations, row.failed, row.stopped)


def next_task(call: Call, found: Experiment) -> Task | None:
    """Return the task of the next suggestion of the engine, with a probability proportional to exp(-cost)."""
    if not found.tasks:
        return None
    table = schema.suggestions
    count = call.connection.scalar(sa.select(sa.func.count()).where(table.c.experiment == found.id))
    generator = random.Random(derive_seed("task", found.id, count or 0))
    return generator.choices(found.tasks, [math.exp(-task.cost) for task in found.tasks])[0]


def _observations(call: Call, found: Experiment) -> list[Observation]:
    observed = []
    for row in rows(call, found):
        assignments, known = in_space(row.assignments, found.space), observation(row)
        if assignments is not None:
            observed.append(replace(known, assignments=assignments))
    return observed
