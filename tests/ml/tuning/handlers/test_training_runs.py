"""Runs of projects, in SQLite and in PostgreSQL."""

from __future__ import annotations

import json
from typing import Any

import pytest
import sigopt

from ml.tuning.handlers import checkpoints as checkpoint_handlers
from tests.helpers.tuning import Clock, refused


@pytest.fixture
def project(connection: sigopt.Connection) -> Any:
    connection.clients(1).projects().create(id="recsys", name="Recommenders")
    return connection.clients(1).projects("recsys")


def request(connection: sigopt.Connection, method: str, *path: object, **body: Any) -> Any:
    return connection.impl.request(method, list(path), body, None)


def test_a_run_holds_what_was_logged(connection: sigopt.Connection, project: Any) -> None:
    body = {
        "name": "first",
        "assignments": {"lr": 0.1, "arch": "dcn"},
        "values": {"auc": {"value": 0.7, "value_stddev": 0.1}, "time": {"value": 3}},
        "metadata": {"day": "2026-01-01"},
        "datasets": {"criteo": {}},
        "model": {"type": "dlrm"},
        "source_code": {"hash": "abc"},
        "logs": {"stdout": {"content": "epoch 1"}},
    }
    run = project.training_runs().create(**body)
    assert connection.training_runs(run.id).fetch() == run
    shown = run.to_json()
    assert (run.state, run.finished, run.completed, run.project, run.client) == ("active", False, None, "recsys", "1")
    assert shown["assignments"] == body["assignments"] and shown["metadata"] == body["metadata"]
    assert run.values["auc"].value_stddev == 0.1 and run.values["time"].value == 3
    assert shown["values"]["time"] == {"object": "metric_evaluation", "name": "time", "value": 3, "value_stddev": None}
    assert run.datasets == ["criteo"] and run.model.type == "dlrm" and run.source_code.hash == "abc"
    assert run.logs == {"stdout": "epoch 1"} and run.tags == [] and run.files == [] and run.checkpoint_count == 0


def test_put_replaces_and_merge_merges(connection: sigopt.Connection, project: Any, clock: Clock) -> None:
    run = project.training_runs().create(name="run", metadata={"a": 1}, values={"auc": {"value": 1}})
    clock.now += 10
    merged = request(connection, "MERGE", "training_runs", run.id, metadata={"b": 2}, values={"time": {"value": 2}})
    assert merged["metadata"] == {"a": 1, "b": 2} and set(merged["values"]) == {"auc", "time"}
    assert merged["updated"] == run.updated + 10
    put = connection.training_runs(run.id).update(metadata={"c": 3})
    assert dict(put.metadata) == {"c": 3} and set(put.values) == {"auc", "time"}
    assert request(connection, "MERGE", "training_runs", run.id, metadata={"c": None})["metadata"] == {}
    assert connection.training_runs(run.id).update(metadata=None).metadata is None


@pytest.mark.parametrize("state", ["completed", "failed"])
def test_the_end_of_a_run_is_recorded_once(connection: sigopt.Connection, project: Any, clock: Clock, state: str) -> None:
    run = project.training_runs().create(name="run")
    clock.now += 5
    ended = connection.training_runs(run.id).update(state=state)
    assert ended.finished and ended.completed == int(clock.now)
    clock.now += 5
    assert connection.training_runs(run.id).update(state="failed").completed == int(clock.now) - 5
    assert project.training_runs().create(name="done", state=state).completed == int(clock.now)


def test_runs_are_archived_and_restored(connection: sigopt.Connection, project: Any) -> None:
    run = project.training_runs().create(name="run")
    for _ in range(2):
        assert request(connection, "DELETE", "training_runs", run.id)["deleted"]
    assert connection.training_runs(run.id).fetch().deleted
    assert not connection.training_runs(run.id).update(deleted=False).deleted


def test_a_run_moves_to_another_project_that_exists(connection: sigopt.Connection, project: Any) -> None:
    run = project.training_runs().create(name="run")
    other = connection.clients(1).projects().create(id="other", name="Other")
    assert connection.training_runs(run.id).update(project=other.id).project == "other"
    assert project.training_runs().fetch().count == 0
    refused(lambda: connection.training_runs(run.id).update(project="missing"), 400, "project: there is no project missing")
    refused(lambda: connection.training_runs(run.id).update(project=None), 400, "project")


@pytest.mark.parametrize(
    ("call", "status", "text"),
    [
        (lambda c: c.clients(1).projects("recsys").training_runs().create(), 400, "name: is required"),
        (lambda c: c.clients(1).projects("recsys").training_runs().create(name="a", project="recsys"), 400, "project"),
        (lambda c: c.clients(1).projects("recsys").training_runs().create(name="a", state=None), 400, "state"),
        (lambda c: c.clients(1).projects("missing").training_runs().create(name="a"), 404, "project missing"),
        (lambda c: c.clients(0).projects("recsys").training_runs().create(name="a"), 404, "client 0"),
        (lambda c: c.training_runs(99).fetch(), 404, "training run 99"),
        (lambda c: c.training_runs("x").update(name="a"), 404, "training run x"),
        (lambda c: c.training_runs(10**30).delete(), 404, "training run"),
    ],
)
def test_requests_that_are_refused(connection: sigopt.Connection, project: Any, call: Any, status: int, text: str) -> None:
    refused(lambda: call(connection), status, text)


def test_batches_are_stored_completely_or_not_at_all(connection: sigopt.Connection, project: Any) -> None:
    runs = [{"name": f"run {n}", "assignments": {"n": n}, "state": "completed" if n % 2 else "failed"} for n in range(25)]
    shown = request(connection, "POST", "clients", 1, "projects", "recsys", "training_runs", "batch", runs=runs)["data"]
    assert [(run["name"], run["assignments"], run["state"]) for run in shown] == [
        (run["name"], run["assignments"], run["state"]) for run in runs
    ]
    assert len({run["id"] for run in shown}) == 25 and all(run["completed"] for run in shown)
    few = project.training_runs().create_batch(runs=runs[:2], fields="id,state")
    assert [set(run) for run in few.to_json()["data"]] == [{"object", "id", "state"}] * 2
    broken = [*runs, {"name": ""}]
    refused(lambda: project.training_runs().create_batch(runs=broken), 400, "runs[25].name: must not be empty")
    refused(lambda: project.training_runs().create_batch(runs=[{"name": "a"}] * 10_001), 400, "runs: can have at most 10000")
    assert project.training_runs().fetch().count == 27
    assert project.training_runs().create_batch(runs=[]).count == 0


def test_lists_are_filtered_sorted_and_paged(connection: sigopt.Connection, project: Any) -> None:
    for n in range(12):
        values = {"auc": {"value": (n * 7 % 12) / 12}} if n < 10 else {}
        project.training_runs().create(name=f"Run {n}", state="completed" if n % 3 else "failed", values=values)

    def names(**parameters: Any) -> list[str]:
        return [run.name for run in project.training_runs().fetch(**parameters).iterate_pages()]

    assert names() == [f"Run {n}" for n in reversed(range(12))]
    by_auc = sorted(range(10), key=lambda n: n * 7 % 12)
    assert names(sort="values.auc.value", limit=3) == [f"Run {n}" for n in reversed(by_auc)]
    assert names(sort="values.auc.value", limit=3, ascending=True, after=None) == [f"Run {n}" for n in by_auc]
    failed = json.dumps([{"field": "state", "operator": "==", "value": "failed"}])
    assert names(filters=failed, limit=2) == ["Run 9", "Run 6", "Run 3", "Run 0"]
    assert names(search="un 1") == ["Run 11", "Run 10", "Run 1"]
    assert connection.impl.request("GET", ["clients", 1, "training_runs"], {}, None)["count"] == 12
    refused(lambda: project.training_runs().fetch(sort="values.auc"), 400, "sort")
    refused(lambda: project.training_runs().fetch(filters="{"), 400, "filters")


def test_checkpoints(connection: sigopt.Connection, project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_handlers, "MAX_CHECKPOINTS", 12)
    run = project.training_runs().create(name="run")
    checkpoints = connection.training_runs(run.id).checkpoints()
    for step in range(12):
        one = checkpoints.create(values=[{"name": "auc", "value": step}, {"name": "a", "value": 1}], metadata={"step": step})
    assert (one.training_run, one.should_stop, dict(one.stopping_reasons)) == (run.id, False, {})
    assert [value.name for value in one.values] == ["a", "auc"] and dict(one.metadata) == {"step": 11}
    refused(lambda: checkpoints.create(values=[{"name": "auc", "value": 1}]), 403, "12 checkpoints")
    assert [found.metadata["step"] for found in checkpoints.fetch(limit=5).iterate_pages()] == [*reversed(range(12))]
    assert connection.training_runs(run.id).checkpoints(one.id).fetch() == one
    assert connection.training_runs(run.id).fetch().checkpoint_count == 12
    refused(connection.training_runs(run.id).checkpoints(999).fetch, 404, "checkpoint 999")


@pytest.mark.parametrize(
    "values", [None, {}, [{"value": 1}], [{"name": "a"}], [{"name": "a", "value": "1"}], [{"name": "a", "value": 1}] * 2]
)
def test_invalid_checkpoints(connection: sigopt.Connection, project: Any, values: Any) -> None:
    run = project.training_runs().create(name="run")
    refused(lambda: connection.training_runs(run.id).checkpoints().create(values=values), 400, "values")


def test_tags(connection: sigopt.Connection, project: Any) -> None:
    run = project.training_runs().create(name="run")
    tags = [request(connection, "POST", "clients", 1, "tags", name=f"tag {n}", color="#1a2b3c") for n in range(2)]
    assert tags[0] == {"object": "tag", "id": tags[0]["id"], "client": "1", "name": "tag 0", "color": "#1A2B3C"}
    for _ in range(2):
        assert request(connection, "POST", "training_runs", run.id, "tags", id=tags[1]["id"]) == tags[1]
    request(connection, "POST", "training_runs", run.id, "tags", id=int(tags[0]["id"]))
    assert set(connection.training_runs(run.id).fetch().tags) == {tag["id"] for tag in tags}
    assert request(connection, "DELETE", "training_runs", run.id, "tags", tags[0]["id"]) == tags[0]
    assert connection.training_runs(run.id).fetch().tags == [tags[1]["id"]]
    assert request(connection, "GET", "clients", 1, "tags")["count"] == 2
    refused(lambda: request(connection, "POST", "clients", 1, "tags", name="tag 0", color="#000000"), 409, "exists")
    refused(lambda: request(connection, "POST", "training_runs", run.id, "tags", id=0), 422, "tag 0")
    refused(lambda: request(connection, "DELETE", "training_runs", run.id, "tags", 0), 404, "tag 0")
    for body in ({"name": "x"}, {"color": "#000000"}, {"name": "x", "color": "red"}, {"name": "x", "color": "#00000g"}):
        refused(lambda body=body: request(connection, "POST", "clients", 1, "tags", **body), 400)
