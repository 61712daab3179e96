"""Projects, clients, tokens and sessions, in SQLite and in PostgreSQL."""

from __future__ import annotations

from typing import Any

import pytest
import sigopt

from ml.tuning.service import TuningService
from tests.helpers.tuning import Clock, connect, definition, refused
from tests.helpers.tuning_http import DEVELOPMENT_TOKEN, TOKEN, ensure_tokens


def test_projects_are_created_changed_and_archived(connection: sigopt.Connection, clock: Clock) -> None:
    projects = connection.clients(1).projects
    created = projects().create(id="rec-sys_1.0", name="Recommenders", metadata={"team": "ads"})
    assert (created.id, created.name, created.client) == ("rec-sys_1.0", "Recommenders", "1")
    assert dict(created.metadata) == {"team": "ads"}
    assert projects(created.id).fetch() == created
    clock.now += 10
    changed = projects(created.id).update(name="New", metadata=None)
    assert (changed.name, changed.metadata, changed.updated) == ("New", None, created.updated + 10)
    refused(lambda: projects().create(id="rec-sys_1.0", name="Again"), 409, "exists already")
    projects().create(id="other", name="Other")
    assert projects("other").update(deleted=True).to_json()["deleted"]
    assert [project.id for project in projects().fetch().iterate_pages()] == ["rec-sys_1.0"]
    assert {project.id for project in projects().fetch(deleted=True, limit=1).iterate_pages()} == {"rec-sys_1.0", "other"}
    assert not projects("other").update(deleted=False).to_json()["deleted"]


def test_projects_are_listed_by_their_last_change(connection: sigopt.Connection, clock: Clock) -> None:
    projects = connection.clients(1).projects
    for name in ("a", "b", "c"):
        clock.now += 1
        projects().create(id=name, name=name)
    clock.now += 1
    projects("a").update(name="A")
    assert [one.id for one in projects().fetch(limit=1).iterate_pages()] == ["a", "c", "b"]
    assert [one.id for one in projects().fetch(limit=2, sort="created").iterate_pages()] == ["c", "b", "a"]
    ascending = projects().fetch(limit=2, sort="created", ascending=True, after=None)
    assert [one.id for one in ascending.iterate_pages()] == ["a", "b", "c"]
    refused(lambda: projects().fetch(sort="name"), 400, "sort: must be created or updated")


@pytest.mark.parametrize(
    "body",
    [
        {"id": "a"},
        {"name": "a"},
        {"id": "", "name": "a"},
        {"id": "Upper", "name": "a"},
        {"id": "a/b", "name": "a"},
        {"id": "a" * 33, "name": "a"},
        {"id": "a", "name": ""},
        {"id": "a", "name": "a" * 101},
        {"id": "a", "name": "a", "metadata": []},
        {"id": "a", "name": "a", "other": True},
    ],
)
def test_invalid_projects(connection: sigopt.Connection, body: dict[str, Any]) -> None:
    refused(lambda: connection.clients(1).projects().create(**body), 400)
    assert connection.clients(1).projects().fetch().count == 0


@pytest.mark.parametrize(
    "body", [{"client": "1"}, {"created": 0}, {"name": None}, {"name": ""}, {"other": 1}, {"deleted": "x"}]
)
def test_invalid_changes(connection: sigopt.Connection, body: dict[str, Any]) -> None:
    connection.clients(1).projects().create(id="a", name="a")
    refused(lambda: connection.clients(1).projects("a").update(**body), 400)
    refused(lambda: connection.clients(1).projects("b").update(name="b"), 404, "project b")


def test_projects_count_what_belongs_to_them(connection: sigopt.Connection) -> None:
    for name in ("a", "b"):
        connection.clients(1).projects().create(id=name, name=name)
    connection.experiments().create(**definition(project="a"))
    for _ in range(2):
        connection.clients(1).projects("b").training_runs().create(name="run")
    shown = [connection.clients(1).projects(name).fetch().to_json() for name in ("a", "b")]
    assert [(one["experiment_count"], one["training_run_count"]) for one in shown] == [(1, 0), (0, 2)]


def test_a_development_token_reaches_only_what_it_made(service: TuningService) -> None:
    ensure_tokens(service)
    production, development = connect(service, client_token=TOKEN), connect(service, client_token=DEVELOPMENT_TOKEN)
    production.clients(1).projects().create(id="a", name="a")
    production.experiments().create(**definition())
    tuned = production.clients(1).projects("a").aiexperiments().create(**definition())
    run = production.aiexperiments(tuned.id).training_runs().create(name="run")
    own = development.clients(1).projects("a").training_runs().create(name="own")
    assert development.experiments().create(**definition()).id == "3"
    for call in (
        development.experiments("1").fetch,
        development.experiments("1").suggestions().create,
        development.aiexperiments(tuned.id).fetch,
        development.training_runs(run.id).fetch,
        lambda: development.training_runs(run.id).update(state="failed"),
        lambda: development.impl.request("GET", ["clients", "1", "tokens"], {}, None),
        lambda: development.impl.request("POST", ["clients", "1", "tokens"], {}, None),
    ):
        refused(call, 403, "development token")
    refused(development.tokens(TOKEN).fetch, 404, "token")
    assert [one.id for one in development.clients(1).experiments().fetch(include_ai=True).iterate_pages()] == ["3"]
    assert [one.id for one in development.clients("1").projects("a").training_runs().fetch().iterate_pages()] == [own.id]
    assert development.experiments("3").suggestions().create().id and production.training_runs(run.id).fetch().state == "active"


def test_who_calls(service: TuningService) -> None:
    ensure_tokens(service)
    known = connect(service, client_token=TOKEN)
    token = known.tokens("self").fetch()
    assert (token.token, token.client, token.token_type, token.all_experiments) == (TOKEN, "1", "client-api", True)
    assert known.clients(1).fetch().id == "1"
    session = known.impl.request("GET", ["sessions"], {}, None)
    assert session["client"]["id"] == "1" and session["api_token"]["token"] == TOKEN
    listed = known.impl.request("GET", ["clients", "1", "tokens"], {}, None)["data"]
    assert {one["token"]: (one["token_type"], one["development"]) for one in listed} == {
        TOKEN: ("client-api", False),
        DEVELOPMENT_TOKEN: ("client-dev", True),
    }
    refused(known.tokens("other").fetch, 404, "token")
    made = known.impl.request("POST", ["clients", "1", "tokens"], {"development": True}, None)
    assert (made["token_type"], len(made["token"])) == ("client-dev", 48)
    other = known.impl.request("POST", ["clients", "1", "tokens"], {}, None)["token"]
    refused(lambda: known.impl.request("DELETE", ["tokens", "self"], {}, None), 403, "cannot revoke itself")
    connect(service, client_token=other).impl.request("DELETE", ["tokens", TOKEN], {}, None)
    refused(known.clients(1).fetch, 401, "unknown")
    known = connect(service, client_token=other)
    refused(known.clients(2).fetch, 404, "client 2")
    assert connect(service).tokens("self").fetch().client == "1"
