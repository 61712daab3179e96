"""Results of an experiment: the best observations, whether to stop, and advice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ml.tuning import budget, practices, render
from ml.tuning.best import best, compromise
from ml.tuning.call import Call
from ml.tuning.engine import stopping_reasons
from ml.tuning.errors import ApiError
from ml.tuning.records import experiments, studies
from ml.tuning.router import Route

PATH = "experiments/{experiment}/"


def best_assignments(call: Call) -> dict[str, Any]:
    """List the best assignments, and mark the knee of a Pareto front."""
    found = experiments.requested(call)
    rows = studies.full_cost(found, studies.rows(call, found))
    observed = [studies.observation(row) for row in rows]
    knee = compromise(found, observed)
    return render.pagination(
        {
            "object": "best_assignments",
            "id": str(rows[index].id),
            "assignments": rows[index].assignments,
            "values": render.values(rows[index].values),
            **({"knee": True} if index == knee else {}),
        }
        for index in best(found, observed)
    )


def metric_importances(call: Call) -> dict[str, Any]:
    """List how much each parameter matters for each metric."""
    from ml.tuning.engine.importances import importances  # imports Optuna

    found = experiments.requested(call)
    study = studies.study(call, found)
    shares = {metric.name: importances(study, metric.name) for metric in found.metrics}
    if not any(shares.values()):
        raise ApiError(422, f"Experiment {found.id} has too few different results to calculate importances")
    return render.pagination(
        {"object": "metric_importances", "metric": name or None, "importances": importance}
        for name, importance in shares.items()
    )


def stopping_criteria(call: Call) -> dict[str, Any]:
    """Tell whether the experiment can stop, and why."""
    found = experiments.requested(call)
    why = list(stopping_reasons(replace(studies.study(call, found), budget=None)))
    if found.budget is not None and budget.consumed(call, found).observed >= found.budget:
        why.append("observation_budget_reached")  # counts observations that are outside the space by now, and costs of tasks
    return {"object": "stopping_criteria", "should_stop": bool(why), "reasons": why}


def best_practices(call: Call) -> dict[str, Any]:
    """Tell what makes the search of the experiment less effective."""
    return {"object": "best_practices", "violations": practices.violations(experiments.requested(call))}


ROUTES = (
    Route("GET", PATH + "best_assignments", best_assignments),
    Route("GET", PATH + "metric_importances", metric_importances),
    Route("GET", PATH + "stopping_criteria", stopping_criteria),
    Route("GET", PATH + "best_practices", best_practices),
)
