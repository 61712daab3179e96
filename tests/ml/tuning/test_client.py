"""Every documented call of the sigopt client, answered alike in the same process and over HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sigopt
from sigopt.aiexperiment_context import AIExperimentContext
from sigopt.exception import ApiException, ConflictingProjectException, ProjectNotFoundException
from sigopt.factory import SigOptFactory

from ml.tuning.database import Database
from ml.tuning.driver import Driver
from ml.tuning.service import TuningService
from tests.helpers.tuning import DIMENSION, LAYERS, LEARNING_RATE, definition, refused, sqlite
from tests.helpers.tuning_http import connect_http, served

PARAMETERS = [LEARNING_RATE, LAYERS, DIMENSION]
PROJECT = "recsys"


@pytest.fixture(autouse=True)
def without_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client sleeps after several refused calls in a row."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


@pytest.fixture(params=["driver", "http"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sigopt.Connection]:
    """The client in the same process, then over HTTP."""
    service = TuningService(Database(sqlite(tmp_path)))
    if request.param == "http":
        with served(service) as url:
            yield connect_http(url)
    else:
        connection = sigopt.Connection(driver=Driver, service=service)
        yield connection
        connection.impl.driver.close()


@pytest.fixture
def factory(client: sigopt.Connection) -> SigOptFactory:
    made = SigOptFactory(PROJECT, connection=client)
    made.create_project()
    return made


def experiment(factory: SigOptFactory, **changes: Any) -> AIExperimentContext:
    return factory.create_experiment(**definition(parameters=PARAMETERS, **changes))


def core(client: sigopt.Connection, **changes: Any) -> Any:
    return client.experiments().create(**definition(**{"parameters": PARAMETERS, **changes}))


def evaluate(run: Any, **values: float) -> None:
    with run:
        for name, value in values.items():
            run.log_metric(name, value)


# The AI module: what `sigopt.*` and its objects offer.


def creates_a_project(factory: SigOptFactory) -> None:
    with pytest.raises(ConflictingProjectException):
        factory.create_project()
    other = SigOptFactory("other", connection=factory.connection)
    with pytest.raises(ProjectNotFoundException):
        other.create_run(name="run")
    assert other.create_project(name="Other").name == "Other"


def loops_until_the_budget_is_used(factory: SigOptFactory) -> None:
    made = experiment(factory, budget=3, parallel_bandwidth=1, metadata={"day": "2026-01-01"})
    for index, run in enumerate(made.loop(name="trial")):
        with run:
            assert set(run.params) == {"learning_rate", "layers", "dimension"} and run.params.dimension in (16, 64, 128)
            run.log_metric("auc", 0.7 + index / 100, stddev=0.01)
    assert made.is_finished() and made.progress.finished_run_count == made.progress.total_run_count == 3
    assert made.progress.remaining_budget == made.progress.active_run_count == 0
    runs = list(made.get_runs())
    assert [run.values["auc"].value for run in runs] == [0.72, 0.71, 0.7]
    assert all(run.state == "completed" and run.observation and run.suggestion for run in runs)
    (best,) = made.get_best_runs()
    assert best.id == runs[0].id and best.values["auc"].value_stddev == 0.01


def finds_the_pareto_front(factory: SigOptFactory) -> None:
    metrics = [
        {"name": "auc", "objective": "maximize", "threshold": 0.7},
        {"name": "time", "objective": "minimize", "threshold": 100},
        {"name": "loss", "strategy": "store", "objective": "minimize"},
    ]
    made = experiment(factory, metrics=metrics, budget=10)
    results = [(0.8, 90), (0.75, 50), (0.74, 60), (0.9, 200), (0.6, 10)]
    created = []
    for auc, seconds in results:
        run = made.create_run()
        evaluate(run, auc=auc, time=seconds, loss=0.5)
        created.append(run.id)
    assert {run.id for run in made.get_best_runs()} == set(created[:2])


def records_failures(factory: SigOptFactory) -> None:
    made = experiment(factory, budget=9)
    with made.create_run() as run:
        run.log_failure()
    with pytest.raises(ZeroDivisionError), made.create_run():
        raise ZeroDivisionError
    with made.create_run() as incomplete:
        incomplete.log_metric("other", 1)
    assert [one.state for one in made.get_runs()] == ["completed", "failed", "failed"]
    observed = list(factory.connection.experiments(made.id).observations().fetch().iterate_pages())
    assert [one.failed for one in observed] == [True] * 3 and list(made.get_best_runs()) == []


def logs_everything(factory: SigOptFactory) -> None:
    with factory.create_run(name="logged", metadata={"a": 1}) as run:
        run.params.learning_rate = 0.1
        run.params.setdefaults(layers=3, learning_rate=5)
        run.params.update(arch="dcn")
        run.set_parameters_meta({"layers": {"source": "user"}})
        run.set_parameters_sources_meta("user", sort=1, default_show=True)
        run.log_metric("auc", 0.5)
        run.log_metrics({"auc": 0.7, "time": np.float32(2)})
        run.log_metadata("b", "text")
        run.log_metadata("flag", True)
        run.log_dev_metadata("dev", 1)
        run.log_sys_metadata("feature_importances", {"type": "gain", "scores": {"C1": 2}})
        run.log_dataset("criteo")
        run.log_model("DLRM")
        run.log_source_code(content="print()", hash="abc")
        run.set_logs({"stdout": "x" * 5000, "stderr": ""})
        run.log_checkpoint({"auc": 0.6})
    found = factory.get_run(run.id)
    assert (found.name, found.state, found.checkpoint_count) == ("logged", "completed", 1)
    assert dict(found.assignments) == {"learning_rate": 0.1, "layers": 3, "arch": "dcn"}
    assert {name: one.value for name, one in found.values.items()} == {"auc": 0.7, "time": 2}
    assert dict(found.metadata) == {"a": 1, "b": "text", "flag": 1.0} and dict(found.dev_metadata) == {"dev": 1}
    assert found.sys_metadata["feature_importances"]["scores"] == {"C1": 2}
    assert found.datasets == ["criteo"] and found.model.type == "DLRM"
    assert (found.source_code.content, found.source_code.hash) == ("print()", "abc")
    assert len(found.logs["stdout"]) > 1000 and found.logs["stderr"] == ""


def uploads_images(factory: SigOptFactory) -> None:
    run = factory.create_run(name="image")
    run.log_image(np.zeros((8, 8, 3)), name="black")
    (file,) = factory.get_run(run.id).files
    described = factory.connection.impl.request("GET", ["files", file], {}, None)
    assert (described["name"], described["content_type"]) == ("black", "image/png")
    import requests

    assert requests.get(described["download"]["url"], timeout=10).content.startswith(b"\x89PNG")


def uploads_runs_in_batches(factory: SigOptFactory) -> None:
    runs = [
        {"name": f"run {n}", "assignments": {"x": n}, "values": {"r": {"value": n}}, "state": "completed"} for n in range(11)
    ]
    assert len(factory.upload_runs(runs, max_batch_size=3)) == 11


def updates_and_archives_experiments(factory: SigOptFactory) -> None:
    made = experiment(factory, budget=5)
    parameters = made.parameters
    next(one for one in parameters if one.name == "layers").bounds.max = 100
    made.update(name="renamed", parameters=parameters, budget=7, parallel_bandwidth=2)
    again = factory.get_experiment(made.id)
    assert (again.name, again.budget, again.parallel_bandwidth, again.project) == ("renamed", 7, 2, PROJECT)
    assert next(one for one in again.parameters if one.name == "layers").bounds.max == 100
    factory.archive_experiment(made.id)
    assert factory.get_experiment(made.id).state == "deleted"
    refused(lambda: again.create_run(name="late"), 400, "deleted")
    factory.unarchive_experiment(made.id)
    run = again.create_run(name="later")
    factory.archive_aiexperiment(made.id, include_runs=True)
    assert factory.get_run(run.id).deleted
    again.archive()
    assert again.state == "deleted"


def archives_runs(factory: SigOptFactory) -> None:
    made = experiment(factory, budget=1)
    run = made.create_run()
    evaluate(run, auc=0.7)
    factory.archive_run(run.id)
    assert not made.is_finished() and list(made.get_best_runs()) == []
    factory.unarchive_run(run.id)
    assert made.is_finished() and [best.id for best in made.get_best_runs()] == [run.id]


def refuses_a_run_beyond_the_budget(factory: SigOptFactory) -> None:
    made = experiment(factory, budget=2)
    runs = [made.create_run() for _ in range(2)]
    assert made.is_finished() and made.progress.active_run_count == 2
    refused(lambda: made.create_run(), 409, "budget")
    evaluate(runs[0], auc=0.7)
    refused(lambda: made.create_run(), 409, "budget")


def stops_runs_early(factory: SigOptFactory) -> None:
    made = experiment(factory, budget=20)
    for _ in range(4):
        run = made.create_run()
        run.log_checkpoint({"auc": 0.7})
        evaluate(run, auc=0.75)
    slow = made.create_run()
    checkpoint = factory.connection.training_runs(slow.id).checkpoints().create(values=[{"name": "auc", "value": 0.5}])
    assert checkpoint.should_stop and dict(checkpoint.stopping_reasons) == {"median_rule": True, "threshold_rule": False}
    evaluate(slow, auc=0.5)
    refused(lambda: slow.log_checkpoint({"auc": 0.5}), 403, "has ended")


def runs_with_chosen_assignments(factory: SigOptFactory) -> None:
    made = experiment(factory, budget=9)
    runs = factory.connection.aiexperiments(made.id).training_runs()
    chosen = {"learning_rate": 0.01, "layers": 2, "dimension": 64}
    explicit = runs.create(name="chosen", assignments={**chosen, "seed": 1})
    assert explicit.suggestion and dict(explicit.assignments) == {**chosen, "seed": 1}
    partial = runs.create(name="partial", assignments={"layers": 2})
    assert partial.suggestion is None and dict(partial.assignments) == {"layers": 2}
    served_run = runs.create(name="served")
    assert served_run.to_json()["assignments_meta"]["layers"] == {"object": "assignments_meta", "source": "SigOpt"}
    done = runs.create(name="done", state="completed", assignments=chosen, values={"auc": {"value": 0.9}})
    assert done.observation and done.suggestion is None
    assert [run.id for run in made.get_best_runs()] == [done.id]


# The core module: what `sigopt.Connection` offers.


def optimizes_with_suggestions(factory: SigOptFactory) -> None:
    client = factory.connection
    made = core(client, observation_budget=5, project=PROJECT)
    for index in range(3):
        suggestion = client.experiments(made.id).suggestions().create(metadata={"n": index})
        values = [{"name": "auc", "value": index, "value_stddev": 0.1}]
        client.experiments(made.id).observations().create(suggestion=suggestion.id, values=values)
    fetched = client.experiments(made.id).fetch()
    assert fetched.progress.observation_count == 3 and fetched.project == PROJECT
    (best,) = client.experiments(made.id).best_assignments().fetch().iterate_pages()
    assert best.values[0].value == 2 and dict(best.assignments) == dict(suggestion.assignments)
    assert not client.experiments(made.id).stopping_criteria().fetch().should_stop
    assert client.clients(1).experiments().fetch().count == client.clients(1).projects(PROJECT).experiments().fetch().count == 1
    assert [one.state for one in client.experiments(made.id).suggestions().fetch().iterate_pages()] == ["closed"] * 3


def finds_several_solutions(factory: SigOptFactory) -> None:
    """One of the metrics' two peaks is a little lower; a search for one solution does not report it."""
    client = factory.connection
    plane = [{"name": name, "type": "double", "bounds": {"min": 0, "max": 1}} for name in ("a", "b")]
    made = core(client, parameters=plane, observation_budget=16, num_solutions=2)
    assert made.num_solutions == 2
    peaks = ((0.2, 0.2, 1.0), (0.8, 0.8, 0.95))
    for _ in range(16):
        suggestion = client.experiments(made.id).suggestions().create()
        a, b = suggestion.assignments["a"], suggestion.assignments["b"]
        auc = max(height - (a - x) ** 2 - (b - y) ** 2 for x, y, height in peaks)
        client.experiments(made.id).observations().create(suggestion=suggestion.id, values=[{"name": "auc", "value": auc}])
    best = [dict(one.assignments) for one in client.experiments(made.id).best_assignments().fetch().iterate_pages()]
    assert len(best) == 2
    for x, y, _ in peaks:
        assert min(max(abs(one["a"] - x), abs(one["b"] - y)) for one in best) < 0.1
    refused(lambda: client.experiments(made.id).update(num_solutions=3), 400, "num_solutions: cannot be changed")
    refused(lambda: core(client, num_solutions=2), 400, "observation_budget: is required")


def edits_suggestions_and_observations(factory: SigOptFactory) -> None:
    client = factory.connection
    made = client.experiments(core(client).id)
    assignments = {"learning_rate": 0.01, "layers": 2, "dimension": 64}
    queued = made.queued_suggestions().create(assignments=assignments)
    assert made.queued_suggestions(queued.id).fetch() == queued and made.queued_suggestions().fetch().count == 1
    suggestion = made.suggestions().create()
    assert dict(suggestion.assignments) == assignments and made.queued_suggestions().fetch().count == 0
    made.queued_suggestions(made.queued_suggestions().create(assignments=assignments).id).delete()
    assert dict(made.suggestions(suggestion.id).update(metadata={"a": 1}).metadata) == {"a": 1}
    made.suggestions(suggestion.id).delete()
    failed = made.observations().create(assignments=assignments, failed=True)
    better = made.observations(failed.id).update(failed=False, values=[{"name": "auc", "value": 1}], no_optimize=True)
    assert not better.failed and made.observations(failed.id).fetch() == better
    batch = [{"assignments": assignments, "values": [{"name": "auc", "value": n}]} for n in range(3)]
    assert made.observations().create_batch(observations=batch).count == 3
    made.observations(failed.id).delete()
    assert made.observations().fetch().count == 3
    made.observations().delete()
    assert made.observations().fetch().count == 0
    made.suggestions().delete()
    made.update(name="renamed", no_optimize=True)
    made.delete()
    assert made.fetch().state == "deleted" and made.update(state="active").name == "renamed"


def reports_importances(factory: SigOptFactory) -> None:
    made = factory.connection.experiments(core(factory.connection).id)
    for layers in range(1, 9):
        assignments = {"learning_rate": 0.01, "layers": layers, "dimension": 64}
        made.observations().create(assignments=assignments, values=[{"name": "auc", "value": layers}])
    (found,) = made.metric_importances().fetch().iterate_pages()
    assert found.metric == "auc" and set(found.importances) == {"learning_rate", "layers", "dimension"}


def names_the_caller(factory: SigOptFactory) -> None:
    client = factory.connection
    assert client.tokens("self").fetch().client == "1" and client.clients(1).fetch().id == "1"
    token = client.experiments(core(client).id).tokens().create()
    assert token.experiment == "1" and not token.all_experiments
    core(client)
    client.set_client_token(token.token)
    assert client.experiments(1).fetch().id == "1" and client.tokens("self").fetch() == token
    refused(client.experiments(2).fetch, 403, "experiment 1 only")
    refused(factory.create_run, 403, "experiment 1 only")
    refused(client.clients(1).projects().create, 403, "experiment 1 only")


def refuses_with_the_key_path(factory: SigOptFactory) -> None:
    client = factory.connection
    refused(lambda: core(client, parameters=[{**LAYERS, "bounds": {"min": 2, "max": 1}}]), 400, "parameters[0].bounds")
    refused(lambda: experiment(factory, metrics=[{"name": "auc", "threshold": 1}]), 400, "metrics[0].threshold")
    refused(lambda: client.experiments(99).fetch(), 404, "experiment 99")
    refused(lambda: client.aiexperiments(core(client).id).fetch(), 404)
    refused(lambda: client.clients(1).projects("missing").aiexperiments().create(**definition()), 404, "project missing")
    with pytest.raises(ApiException):
        client.organizations(1).fetch()


CALLS: tuple[Callable[[SigOptFactory], None], ...] = (
    creates_a_project,
    loops_until_the_budget_is_used,
    finds_the_pareto_front,
    records_failures,
    logs_everything,
    uploads_images,
    uploads_runs_in_batches,
    updates_and_archives_experiments,
    archives_runs,
    refuses_a_run_beyond_the_budget,
    stops_runs_early,
    runs_with_chosen_assignments,
    optimizes_with_suggestions,
    finds_several_solutions,
    edits_suggestions_and_observations,
    reports_importances,
    names_the_caller,
    refuses_with_the_key_path,
)


@pytest.mark.filterwarnings("ignore:The .data field:RuntimeWarning")
@pytest.mark.parametrize("calls", CALLS, ids=lambda calls: calls.__name__)
def test_the_client(factory: SigOptFactory, calls: Callable[[SigOptFactory], None]) -> None:
    calls(factory)
