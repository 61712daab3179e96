"""Writes the search of a recipe for other tools: the Smart Democratization Advisor, or SigOpt's `experiment.yml`.

Neither has the recipe keys of parameters, nor the window of days. They are stored in SigOpt's metadata, so that a file can be
read again without loss.
"""

from __future__ import annotations

from typing import Any

import yaml

from ml.recipes.search import Search

OWN = "evergreen."  # keys of metadata that are not for other tools
KEY = f"{OWN}key."
OWN_KEYS = ("window_days", "scored_days", "judged_days", "quality_margin", "early_stopping")  # other tools have no such keys


def parameters_and_metrics(search: Search) -> dict[str, Any]:
    """Returns the lists of a search as SigOpt's API has them, without recipe keys."""
    lists = {
        "parameters": [one.model_dump(mode="json", exclude={"key"}, exclude_defaults=True) for one in search.parameters],
        "metrics": [one.model_dump(mode="json", exclude_none=True) for one in search.metrics],
        "conditionals": list(search.conditionals),
        "linear_constraints": list(search.linear_constraints),
    }
    return {key: value for key, value in lists.items() if value}


def experiment_body(search: Search, name: str, project: str | None) -> dict[str, Any]:
    """Returns the body with which SigOpt's core module creates the experiment of a search.

    Args:
        search: The search.
        name: Name of the experiment, unless the search names it.
        project: Project of the experiment, unless the search names it; None for none.
    """
    return {
        "name": search.experiment or name,
        **({"project": search.project or project} if search.project or project else {}),
        **parameters_and_metrics(search),
        "observation_budget": search.observation_budget,
        "parallel_bandwidth": search.parallel_bandwidth,
    }


def to_sda(search: Search, experiment: str, project: str) -> dict[str, Any]:
    """Returns a search as a file of the Smart Democratization Advisor.

    Args:
        search: The search.
        experiment: Name of the experiment, unless the search names it.
        project: Project of the experiment, unless the search names it.
    """
    names = {"project": search.project or project, "experiment": search.experiment or experiment}
    counts = {"observation_budget": search.observation_budget, "parallel_bandwidth": search.parallel_bandwidth}
    return names | parameters_and_metrics(search) | counts | {"metadata": _metadata(search)}


def to_sigopt(search: Search, name: str) -> dict[str, Any]:
    """Returns a search as SigOpt's `experiment.yml`.

    SigOpt refuses the key `project` there; its client takes the project from `SIGOPT_PROJECT`.

    Args:
        search: The search.
        name: Name of the experiment, unless the search names it.
    """
    project = {f"{OWN}project": search.project} if search.project else {}
    counts = {"budget": search.observation_budget, "parallel_bandwidth": search.parallel_bandwidth}
    metadata = _metadata(search) | project
    return {"name": search.experiment or name} | parameters_and_metrics(search) | counts | {"metadata": metadata}


def as_yaml(data: dict[str, Any]) -> str:
    """Returns a file's text."""
    return yaml.safe_dump(data, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True)


def _metadata(search: Search) -> dict[str, Any]:
    own = {f"{OWN}{name}": getattr(search, name) for name in OWN_KEYS}
    return own | {f"{KEY}{parameter.name}": parameter.key for parameter in search.parameters}
