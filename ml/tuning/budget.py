"""Budgets of experiments, which workers consume together.

Each observation consumes budget, and so does each open suggestion until its lease ends. A worker with a name gets a suggestion
only if budget is left; the check and the suggestion are one transaction, so racing workers cannot exceed the budget together.
A result that arrives after its lease is accepted even if another worker has received its budget: a result is never lost.

Callers without a name are not limited, as in SigOpt's core module, where the budget is a plan.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from ml.tuning import schema
from ml.tuning.call import Call
from ml.tuning.errors import ApiError
from ml.tuning.experiment import Experiment, Task

_ROUNDING = 1e-9  # costs of tasks are fractions


@dataclass(frozen=True)
class Consumed:
    """Consumed budget, in observations of the full cost.

    Attributes:
        observed: By observations.
        held: By open suggestions whose lease has not ended.
    """

    observed: float
    held: float


def consumed(call: Call, found: Experiment, *, without: int | None = None) -> Consumed:
    """Return the consumed budget of an experiment.

    Args:
        call: The call. Its transaction must have locked the experiment for the result to stay true.
        found: The experiment.
        without: Id of a suggestion that is not counted.
    """
    table = schema.suggestions
    held = [table.c.state == "open", table.c.deleted.is_(False), table.c.deadline > call.now]
    if without is not None:
        held.append(table.c.id != without)
    return Consumed(
        _cost(call, schema.observations, found, schema.observations.c.deleted.is_(False)), _cost(call, table, found, *held)
    )


def require(call: Call, found: Experiment, task: Task | None = None, *, without: int | None = None) -> None:
    """Refuse a suggestion for which no budget is left.

    Args:
        call: The call, whose transaction has locked the experiment.
        found: The experiment.
        task: Task of the suggestion, None for the full cost.
        without: Id of a suggestion that is not counted.

    Raises:
        ApiError: 409 if no budget is left.
    """
    if found.budget is None:
        return
    used, cost = consumed(call, found, without=without), 1.0 if task is None else task.cost
    if used.observed + used.held + cost > found.budget + _ROUNDING:
        raise ApiError(
            409,
            f"The budget of experiment {found.id} is used up: of {found.budget:g}, {used.observed:g} are observed and "
            f"{used.held:g} belong to open suggestions",
        )


def _cost(call: Call, table: sa.Table, found: Experiment, *conditions: sa.ColumnElement[bool]) -> float:
    if not found.tasks:
        query = sa.select(sa.func.count()).where(table.c.experiment == found.id, *conditions)
        return float(call.connection.scalar(query) or 0)
    query = sa.select(table.c.task).where(table.c.experiment == found.id, *conditions)
    return sum(1.0 if task is None else task["cost"] for task in call.connection.scalars(query))
