"""Renders experiments and what belongs to them as SigOpt's API shows them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ml.tuning.definition import Metric, Parameter, Prior, Space
from ml.tuning.experiment import Experiment, Task

JSON = dict[str, Any]


def experiment(found: Experiment, progress: JSON) -> JSON:
    """Return an experiment, with its progress."""
    body = {
        "object": "aiexperiment" if found.runs_only else "experiment",
        "id": str(found.id),
        "client": str(found.client),
        "user": None,
        "project": found.project,
        "name": found.name,
        "type": found.kind,
        "state": found.state,
        "created": int(found.created),
        "updated": int(found.updated),
        **space(found.space),
        "metrics": metrics(found.metrics),
        found.budget_key: found.budget,
        "parallel_bandwidth": found.bandwidth,
        "num_solutions": found.num_solutions,
        "metadata": found.metadata,
        "progress": progress,
    }
    body["runs_only"] = found.runs_only
    if not found.runs_only:
        body["development"] = found.development
    if found.tasks:
        body["tasks"] = [task(one) for one in found.tasks]
    return body


def space(found: Space) -> JSON:
    """Return the keys `parameters`, `conditionals` and `linear_constraints`."""
    return {
        "parameters": [parameter(one) for one in found.parameters],
        "conditionals": [{"object": "conditional", "name": one.name, "values": list(one.values)} for one in found.conditionals],
        "linear_constraints": [
            {
                "object": "linear_constraint",
                "type": one.kind,
                "threshold": one.threshold,
                "terms": [{"object": "term", "name": name, "weight": weight} for name, weight in one.weights.items()],
            }
            for one in found.constraints
        ],
    }


def parameter(found: Parameter) -> JSON:
    """Return one parameter."""
    categories = enumerate(found.categories, start=1)
    bounds = {"object": "bounds", "min": found.low, "max": found.high}
    return {
        "object": "parameter",
        "name": found.name,
        "type": found.kind,
        "bounds": None if found.kind == "categorical" else bounds,
        "grid": list(found.grid) or None,
        "categorical_values": [{"object": "categorical_value", "name": name, "enum_index": index} for index, name in categories]
        or None,
        "transformation": "log" if found.log else None,
        "prior": _prior(found.prior),
        "conditions": {name: list(values) for name, values in found.conditions.items()},
        "default_value": found.default,
        "precision": None,
        "tunable": True,
    }


def _prior(found: Prior | None) -> JSON | None:
    if found is None:
        return None
    first, second = ("mean", "scale") if found.name == "normal" else ("shape_a", "shape_b")
    return {"object": "prior", "name": found.name, first: found.first, second: found.second}


def metrics(found: Sequence[Metric]) -> list[JSON]:
    """Return metrics."""
    return [
        {
            "object": "metric",
            "name": metric.name or None,
            "objective": metric.objective,
            "strategy": metric.strategy,
            "threshold": metric.threshold,
        }
        for metric in found
    ]


def task(found: Task) -> JSON:
    """Return one task."""
    return {"object": "task", "name": found.name, "cost": found.cost}


def values(stored: Mapping[str, Mapping[str, float]]) -> list[JSON]:
    """Return measured values, in the order of the metrics' names."""
    return [
        {
            "object": "metric_evaluation",
            "name": name or None,
            "value": stored[name]["value"],
            "value_stddev": stored[name].get("value_stddev"),
        }
        for name in sorted(stored)
    ]


def pagination(data: Iterable[JSON], *, count: int | None = None, before: str | None = None, after: str | None = None) -> JSON:
    """Return one page.

    Args:
        data: The objects of the page.
        count: Number of objects on all pages; by default the number on this page.
        before: Marker for the page of older objects.
        after: Marker for the page of newer objects.
    """
    page = list(data)
    return {
        "object": "pagination",
        "count": len(page) if count is None else count,
        "data": page,
        "paging": {"object": "paging", "before": before, "after": after},
    }


def identity(key: int | None) -> str | None:
    """Return an id as the API shows it."""
    return None if key is None else str(key)
