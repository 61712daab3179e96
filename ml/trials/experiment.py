"""The experiment of a tuning: created once, found again after a crash, and read as what was tried."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ml.recipes.dialects.write import experiment_body
from ml.recipes.recipe import Recipe
from ml.recipes.search import Search
from ml.tuning.definition import Metric, Observation, Value

DIGEST = "evergreen_digest"


@dataclass(frozen=True)
class Tried:
    """A trial that ended.

    Attributes:
        assignments: Values by parameter.
        values: Metrics by name; empty if the trial failed.
        failed: Whether it has no metrics.
        stopped: Whether it has none because it was stopped early.
        metadata: What the worker recorded, such as the end of the log of a failed trial, or why one was stopped.
    """

    assignments: Mapping[str, Any]
    values: Mapping[str, float]
    failed: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)
    stopped: bool = False

    @property
    def observation(self) -> Observation:
        """The trial in the terms of the search engine."""
        return Observation(self.assignments, self.values, failed=self.failed, stopped=self.stopped)


def metrics_of(search: Search) -> tuple[Metric, ...]:
    """Returns the metrics of a search in the terms of the search engine."""
    return tuple(Metric(m.name, m.objective, m.strategy, m.threshold) for m in search.metrics)


def experiment_of(
    connection: Any,
    search: Search,
    recipe: Recipe,
    name: str,
    project: str,
    made_from: Any,
    further: Sequence[Mapping[str, Value]] = (),
) -> str:
    """Returns the id of the experiment of a tuning. It is created unless it exists.

    A tuning with another number of trials, in all or at a time, continues the same experiment.

    The recipe's own values are its first suggestion, so tuning never ends with less than it began with. They and `further` are
    also queued if the process that created the experiment was killed before it did so.

    Args:
        connection: A connection to the service.
        search: What is tuned.
        recipe: The recipe whose values are tried first.
        name: Name of the experiment, unless the search names it.
        project: Project of the experiment, unless the search names it.
        made_from: What the trials depend on besides search and recipe, such as digests of their data; JSON.
        further: Values that are tried after those of the recipe. They do not identify the experiment.

    Raises:
        sigopt.exception.ApiException: The service refuses the definition.
    """
    body = experiment_body(search, name, project)
    counts = {"observation_budget": search.observation_budget, "parallel_bandwidth": search.parallel_bandwidth}
    identity = json.dumps([{**body, **dict.fromkeys(counts)}, recipe.fingerprint, made_from], sort_keys=True)
    digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
    found = _found(connection, body["name"], digest)
    if found is None:
        _require_project(connection, body["project"])
        found = str(connection.experiments().create(**body, metadata={DIGEST: digest}).id)
    else:
        connection.experiments(found).update(**counts)
    defaults = search.defaults(recipe)
    own = [defaults] if len(defaults) == len(search.parameters) else []
    if _is_untouched(connection.experiments(found)):
        _queue(connection.experiments(found), [*own, *further])
    return found


def _found(connection: Any, name: str, digest: str) -> str | None:
    """Return the id of the experiment with a digest, if there is one."""
    for one in connection.experiments().fetch(state="active").iterate_pages():
        if one.name == name and (one.metadata or {}).get(DIGEST) == digest:
            return str(one.id)
    return None


def _is_untouched(experiment: Any) -> bool:
    """Whether nothing was suggested or observed yet: the experiment is new, or its creator was killed before it had workers."""
    return not any(kind().fetch(limit=1).count for kind in (experiment.suggestions, experiment.observations))


def _queue(experiment: Any, wanted: Sequence[Mapping[str, Value]]) -> None:
    """Queue assignments, in order, unless they are queued, each once."""
    present = [assignments for _, assignments in _queued(experiment)]
    for each in wanted:
        if each not in present:
            experiment.queued_suggestions().create(assignments=dict(each))
    seen: list[Mapping[str, Value]] = []
    for identity, assignments in _queued(experiment):
        if assignments in seen:  # the call was repeated, because its first answer was lost
            experiment.queued_suggestions(identity).delete()
        seen.append(assignments)


def _queued(experiment: Any) -> list[tuple[str, Mapping[str, Value]]]:
    """Return ids and assignments of the queue, in order."""
    pages = experiment.queued_suggestions().fetch(sort="id", ascending=True).iterate_pages()
    return [(each.id, _plain(each.assignments)) for each in pages]


def _plain(assignments: Any) -> dict[str, Value]:
    return dict(assignments.to_json() if hasattr(assignments, "to_json") else assignments)


def _require_project(connection: Any, project: str) -> None:
    """Create the project unless it exists."""
    from sigopt.exception import ApiException

    client = connection.tokens("self").fetch().client
    try:
        connection.clients(client).projects(project).fetch()
    except ApiException as error:
        if error.status_code != 404:
            raise
        try:
            connection.clients(client).projects().create(id=project, name=project)
        except ApiException as refusal:
            if refusal.status_code != 409:  # another tuning has created it in the meantime
                raise


def tried(connection: Any, experiment: str) -> list[Tried]:
    """Returns the trials that ended, in order."""
    pages = connection.experiments(experiment).observations().fetch(sort="id", ascending=True).iterate_pages()
    return [
        Tried(
            _plain(each.assignments),
            {value.name: value.value for value in each.values or () if value.value is not None},
            bool(each.failed),
            dict(each.metadata or {}),
            bool(each.to_json().get("stopped")),
        )
        for each in pages
    ]


def workers_with_open_suggestions(connection: Any, experiment: str) -> list[str]:
    """Returns the names of workers with an open suggestion, in the order of their suggestions."""
    pages = connection.experiments(experiment).suggestions().fetch(state="open", sort="id", ascending=True).iterate_pages()
    return [lease["worker"] for each in pages if (lease := each.to_json().get("lease"))]
