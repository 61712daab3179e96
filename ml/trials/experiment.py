"""The experiment of a tuning: created once, found again after a crash, and read as what was tried."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ml.recipes.dialects.write import experiment_body
from ml.recipes.recipe import Recipe
from ml.recipes.search import Search
from ml.tuning.definition import Metric, Observation

DIGEST = "evergreen_digest"


@dataclass(frozen=True)
class Tried:
    """A trial that ended.

    Attributes:
        assignments: Values by parameter.
        values: Metrics by name; empty if the trial failed.
        failed: Whether it failed.
        metadata: What the worker recorded, such as the end of the log of a failed trial.
    """

    assignments: Mapping[str, Any]
    values: Mapping[str, float]
    failed: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def observation(self) -> Observation:
        """The trial in the terms of the search engine."""
        return Observation(self.assignments, self.values, failed=self.failed)


def metrics_of(search: Search) -> tuple[Metric, ...]:
    """Returns the metrics of a search in the terms of the search engine."""
    return tuple(Metric(m.name, m.objective, m.strategy, m.threshold) for m in search.metrics)


def experiment_of(connection: Any, search: Search, recipe: Recipe, name: str, project: str, made_from: Any) -> str:
    """Returns the id of the experiment of a tuning. It is created unless it exists.

    The recipe's own values are its first suggestion, so tuning never ends with less than it began with.

    Args:
        connection: A connection to the service.
        search: What is tuned.
        recipe: The recipe whose values are tried first.
        name: Name of the experiment, unless the search names it.
        project: Project of the experiment, unless the search names it.
        made_from: What the trials depend on besides search and recipe, such as digests of their data; JSON.

    Raises:
        sigopt.exception.ApiException: The service refuses the definition.
    """
    body = experiment_body(search, name, project)
    identity = json.dumps([body, recipe.fingerprint, made_from], sort_keys=True)
    digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
    for found in connection.experiments().fetch(state="active").iterate_pages():
        if found.name == body["name"] and (found.metadata or {}).get(DIGEST) == digest:
            return str(found.id)
    _require_project(connection, body["project"])
    created = connection.experiments().create(**body, metadata={DIGEST: digest})
    defaults = search.defaults(recipe)
    if len(defaults) == len(search.parameters):
        connection.experiments(created.id).queued_suggestions().create(assignments=defaults)
    return str(created.id)


def _require_project(connection: Any, project: str) -> None:
    """Create the project unless it exists."""
    from sigopt.exception import ApiException

    client = connection.tokens("self").fetch().client
    try:
        connection.clients(client).projects(project).fetch()
    except ApiException as error:
        if error.status_code != 404:
            raise
        connection.clients(client).projects().create(id=project, name=project)


def tried(connection: Any, experiment: str) -> list[Tried]:
    """Returns the trials that ended, in order."""
    pages = connection.experiments(experiment).observations().fetch(sort="id", ascending=True).iterate_pages()
    return [
        Tried(
            dict(each.assignments.to_json() if hasattr(each.assignments, "to_json") else each.assignments),
            {value.name: value.value for value in each.values or () if value.value is not None},
            bool(each.failed),
            dict(each.metadata or {}),
        )
        for each in pages
    ]
