"""How far experiments are."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from ml.tuning import budget, schema
from ml.tuning.call import Call
from ml.tuning.engine.front import front
from ml.tuning.experiment import Experiment
from ml.tuning.records import observations, studies


def shown(call: Call, found: Experiment) -> dict[str, Any]:
    """Return the progress of an experiment as the API shows it."""
    return _runs(call, found) if found.runs_only else _observations(call, found)


def _observations(call: Call, found: Experiment) -> dict[str, Any]:
    table = schema.observations
    own = (table.c.experiment == found.id, table.c.deleted.is_(False))
    count = call.connection.scalar(sa.select(sa.func.count()).where(*own)) or 0
    ends = sa.select(sa.func.min(table.c.id), sa.func.max(table.c.id)).where(*own)
    first, last = call.connection.execute(ends).one()
    return {
        "object": "progress",
        "observation_count": count,
        "observation_budget_consumed": budget.consumed(call, found).observed if found.tasks else count,
        "first_observation": _shown(call, first),
        "last_observation": _shown(call, last),
        "best_observation": _shown(call, _best(call, found) if count else None),
    }


def _shown(call: Call, identity: int | None) -> dict[str, Any] | None:
    return None if identity is None else observations.show(observations.load(call, identity))


def _best(call: Call, found: Experiment) -> int | None:
    """Return the id of the best observation of an experiment with one optimized metric."""
    if len(found.optimized) != 1:
        return None
    rows = studies.full_cost(found, studies.rows(call, found))
    best = front(found.metrics, [studies.observation(row) for row in rows])
    return rows[best[0]].id if best else None


def _runs(call: Call, found: Experiment) -> dict[str, Any]:
    table = schema.training_runs
    counts = sa.select(table.c.state, sa.func.count()).where(table.c.experiment == found.id, table.c.deleted.is_(False))
    by_state = {state: count for state, count in call.connection.execute(counts.group_by(table.c.state))}
    active, total = by_state.get("active", 0), sum(by_state.values())
    used = budget.consumed(call, found)
    return {
        "object": "progress",
        "active_run_count": active,
        "finished_run_count": total - active,
        "total_run_count": total,
        "remaining_budget": None if found.budget is None else max(found.budget - used.observed - used.held, 0),
    }
