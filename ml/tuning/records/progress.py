"""How far experiments are."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from ml.tuning import schema
from ml.tuning.call import Call
from ml.tuning.experiment import Experiment


def shown(call: Call, found: Experiment) -> dict[str, Any]:
    """Return the progress of an experiment as the API shows it."""
    return _runs(call, found) if found.runs_only else _observations(call, found)


def _observations(call: Call, found: Experiment) -> dict[str, Any]:
    table = schema.observations
    count = call.connection.scalar(sa.select(sa.func.count()).where(table.c.experiment == found.id, table.c.deleted.is_(False)))
    return {
        "object": "progress",
        "observation_count": count,
        "observation_budget_consumed": count,
        "first_observation": None,
        "last_observation": None,
        "best_observation": None,
    }


def _runs(call: Call, found: Experiment) -> dict[str, Any]:
    table = schema.training_runs
    counts = sa.select(table.c.state == "active", sa.func.count()).where(
        table.c.experiment == found.id, table.c.deleted.is_(False)
    )
    by_active = {bool(active): count for active, count in call.connection.execute(counts.group_by(table.c.state == "active"))}
    active, finished = by_active.get(True, 0), by_active.get(False, 0)
    return {
        "object": "progress",
        "active_run_count": active,
        "finished_run_count": finished,
        "total_run_count": active + finished,
        "remaining_budget": None if found.budget is None else found.budget - active - finished,
    }
