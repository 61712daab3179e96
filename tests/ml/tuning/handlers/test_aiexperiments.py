"""Experiments of the AI module: leases, late results and budgets of their runs, in SQLite and in PostgreSQL."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sigopt

from ml.tuning import schema
from ml.tuning.service import TuningService
from tests.helpers.tuning import Clock, connect, definition, refused

MANY = 66_000
"""More runs than a statement of PostgreSQL can have variables, 65,535."""


@pytest.fixture
def project(connection: sigopt.Connection) -> Any:
    connection.clients(1).projects().create(id="recsys", name="Recommenders")
    return connection.clients(1).projects("recsys")


def made(project: Any, /, **changes: Any) -> Any:
    return project.aiexperiments().create(**definition(**changes))


def new_run(service: TuningService, experiment: Any, worker: str | None = None, **body: Any) -> Any:
    return connect(service, worker=worker).aiexperiments(experiment.id).training_runs().create(name="run", **body)


def complete(service: TuningService, run: Any, auc: float = 0.7) -> Any:
    return connect(service).training_runs(run.id).update(state="completed", values={"auc": {"value": auc}})


def test_a_restarted_worker_gets_its_run_again(service: TuningService, project: Any) -> None:
    experiment = made(project, budget=2)
    first = new_run(service, experiment, "a", metadata={"attempt": 1})
    again = new_run(service, experiment, "a", metadata={"host": "x"})
    assert (again.id, again.assignments) == (first.id, first.assignments)
    assert dict(again.metadata) == {"attempt": 1, "host": "x"}
    other = new_run(service, experiment, "b")
    assert other.id != first.id and other.assignments != first.assignments
    complete(service, first)
    refused(lambda: new_run(service, experiment, "a"), 409, "budget")


def test_a_lease_that_ends_returns_its_budget_and_a_late_result_counts_once(
    service: TuningService, project: Any, clock: Clock, connection: sigopt.Connection
) -> None:
    experiment = made(project, budget=1)
    late = new_run(service, experiment, "a")
    refused(lambda: new_run(service, experiment, "b"), 409, "budget")
    clock.now += 31
    assert connection.aiexperiments(experiment.id).fetch().progress.remaining_budget == 1
    second = new_run(service, experiment, "b")
    observed = complete(service, late, 0.8).observation
    assert observed and complete(service, late, 0.1).observation == observed
    assert complete(service, second).observation not in (None, observed)
    values = [one.values[0].value for one in connection.experiments(experiment.id).observations().fetch().iterate_pages()]
    assert sorted(values) == [0.7, 0.8]


@pytest.mark.parametrize("report", ["merge", "put", "checkpoint"])
def test_every_report_renews_the_lease(
    service: TuningService, project: Any, clock: Clock, connection: sigopt.Connection, report: str
) -> None:
    experiment = made(project, budget=1)
    run = new_run(service, experiment, "a")
    for step in range(4):
        clock.now += 20
        if report == "checkpoint":
            connection.training_runs(run.id).checkpoints().create(values=[{"name": "auc", "value": step}])
        else:
            method = {"merge": "MERGE", "put": "PUT"}[report]
            connection.impl.request(method, ["training_runs", run.id], {"metadata": {"step": step}}, None)
    refused(lambda: new_run(service, experiment, "b"), 409, "budget")
    clock.now += 31
    assert new_run(service, experiment, "b").id != run.id


def test_racing_workers_use_the_budget_exactly(service: TuningService, project: Any, connection: sigopt.Connection) -> None:
    experiment = made(project, budget=12)

    def work(worker: int) -> int:
        count = 0
        while connection.aiexperiments(experiment.id).fetch().progress.remaining_budget > 0:
            try:
                run = new_run(service, experiment, f"worker {worker}")
            except sigopt.exception.ApiException as error:
                assert error.status_code == 409
                continue
            complete(service, run)
            count += 1
        return count

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(work, range(4))) == 12
    runs = list(project.training_runs().fetch().iterate_pages())
    assert len(runs) == 12 and len({str(run.assignments) for run in runs}) == 12


def test_a_run_without_a_name_of_a_worker_is_new_each_time(service: TuningService, project: Any) -> None:
    experiment = made(project, budget=2)
    assert len({new_run(service, experiment).id for _ in range(2)}) == 2
    refused(lambda: new_run(service, experiment), 409, "budget")


def test_archived_runs_are_not_observed_until_they_are_restored(
    service: TuningService, project: Any, connection: sigopt.Connection
) -> None:
    experiment = made(project, budget=1)
    run = new_run(service, experiment)
    connection.training_runs(run.id).delete()
    assert complete(service, run).observation is None
    assert connection.aiexperiments(experiment.id).fetch().progress.remaining_budget == 1
    assert connection.training_runs(run.id).update(deleted=False).observation is not None
    assert connection.aiexperiments(experiment.id).fetch().progress.remaining_budget == 0


def test_observations_of_runs_keep_their_suggestions(
    service: TuningService, project: Any, connection: sigopt.Connection
) -> None:
    experiment = made(project)
    tried = complete(service, new_run(service, experiment))
    chosen = {"learning_rate": 0.01, "layers": 3, "interaction": "dcn"}
    given = new_run(service, experiment, state="completed", assignments=chosen, values={"auc": {"value": 0.8}})
    connection.training_runs(tried.id).delete()
    observations = connection.experiments(experiment.id).observations
    kept = "suggestion: cannot be changed, because the observation belongs to a run"
    refused(lambda: observations(given.observation).update(suggestion=tried.suggestion, assignments=None), text=kept)
    assert connection.training_runs(tried.id).update(deleted=False).observation == tried.observation
    refused(lambda: observations(tried.observation).update(suggestion=None, assignments=chosen), text=kept)
    assert observations(tried.observation).update(suggestion=tried.suggestion).suggestion == tried.suggestion


def test_experiments_are_listed_by_project_and_name(connection: sigopt.Connection, project: Any) -> None:
    connection.clients(1).projects().create(id="other", name="Other")
    first, second = made(project, name="Hello World"), made(project, name="hello there")
    elsewhere = connection.clients(1).projects("other").aiexperiments().create(**definition())
    core = connection.experiments().create(**definition())
    assert [one.id for one in project.aiexperiments().fetch(limit=1).iterate_pages()] == [second.id, first.id]
    assert [one.id for one in project.aiexperiments().fetch(search="THERE").iterate_pages()] == [second.id]
    assert {one.id for one in connection.aiexperiments().fetch().iterate_pages()} == {first.id, second.id, elsewhere.id}
    assert [one.id for one in connection.experiments().fetch().iterate_pages()] == [core.id]
    refused(connection.clients(1).projects("missing").aiexperiments().fetch, 404, "project missing")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"metrics": None}, "metrics"),
        ({"metrics": [{"objective": "maximize"}]}, "metrics[0].name"),
        ({"parameters": None}, "parameters"),
        ({"name": None}, "name"),
        ({"budget": 0}, "budget"),
        ({"budget": "1"}, "budget"),
        ({"observation_budget": 5}, "observation_budget"),
        ({"project": "recsys"}, "project"),
        ({"other": 1}, "other"),
    ],
)
def test_invalid_experiments(project: Any, changes: dict[str, Any], text: str) -> None:
    refused(lambda: made(project, **changes), 400, text)
    assert project.aiexperiments().fetch().count == 0


@pytest.mark.slow
def test_an_experiment_with_more_runs_than_a_statement_has_variables(service: TuningService, project: Any) -> None:
    metrics = [{"name": "auc", "strategy": "constraint", "threshold": 0.5}]
    experiment = made(project, budget=100_000, metrics=metrics)
    run = new_run(service, experiment)
    values, common = {"auc": {"value": 0.7}}, {"experiment": int(experiment.id), "assignments": {}, "created": 0}
    with service.database.transaction() as connection:
        ids = range(2, 2 + MANY)
        observations = [{**common, "id": n, "values": values, "failed": False} for n in ids]
        connection.execute(schema.observations.insert(), observations)
        of_run = {"client": 1, "project": "recsys", "name": "run", "state": "completed", "updated": 0, "values": values}
        connection.execute(schema.training_runs.insert(), [{**common, **of_run, "id": n, "observation": n} for n in ids])
    body = {"values": [{"name": "auc", "value": 0.7}]}
    stored = service.handle("POST", ["training_runs", run.id, "checkpoints"], body)
    assert stored is not None and not stored["should_stop"]
    best = service.handle("GET", ["aiexperiments", experiment.id, "best_training_runs"], {"limit": "2"})
    assert best is not None and best["count"] == MANY and len(best["data"]) == 2


def test_the_core_module_creates_experiments_of_runs(connection: sigopt.Connection, project: Any) -> None:
    body = definition(runs_only=True, project="recsys", budget=2)
    created = connection.clients(1).experiments().create(**body)
    shown = created.to_json()
    assert (shown["object"], shown["runs_only"], shown["budget"]) == ("aiexperiment", True, 2)
    assert shown["progress"]["remaining_budget"] == 2 and connection.aiexperiments(created.id).fetch().project == "recsys"
    core = connection.experiments(created.id)
    for call in (core.suggestions, core.observations, core.queued_suggestions):
        refused(lambda call=call: call().create(), 403, "please create runs instead")
    assert core.update(budget=3).to_json()["budget"] == 3
    refused(lambda: core.update(observation_budget=3), text="observation_budget: is not a known key")
    refused(lambda: core.update(project=None), text="project: cannot be changed")
    for changes, text in (
        ({"project": None}, "project: is required for an experiment of runs"),
        ({"observation_budget": 3}, "observation_budget: is not a known key"),
        ({"metrics": [{"objective": "minimize"}]}, "metrics[0].name: is required"),
        ({"runs_only": False}, "budget: is not a known key"),
    ):
        refused(lambda changes=changes: connection.experiments().create(**{**body, **changes}), text=text)
