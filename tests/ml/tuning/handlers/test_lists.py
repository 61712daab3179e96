"""Filters and orders of lists, as the sigopt client asks for them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import sigopt

from ml.tuning.service import TuningService
from tests.helpers.tuning import INTERACTION, Clock, connect, definition, refused

CHOSEN = {"learning_rate": 0.01, "layers": 3, "interaction": "dcn"}


def ids(page: Any) -> list[str]:
    return [one.id for one in page.iterate_pages()]


def observed(connection: sigopt.Connection, values: Iterable[tuple[float, float | None]]) -> Any:
    tuned = connection.experiments(connection.experiments().create(**definition()).id)
    for value, deviation in values:
        tuned.observations().create(assignments=CHOSEN, values=[{"name": "auc", "value": value, "value_stddev": deviation}])
    return tuned


def test_suggestions_by_state_id_and_deletion(connection: sigopt.Connection) -> None:
    tuned = connection.experiments(connection.experiments().create(**definition()).id)
    for _ in range(4):
        tuned.suggestions().create()
    tuned.observations().create(suggestion="1", failed=True)
    tuned.observations().create(suggestion="2", failed=True)
    tuned.suggestions("2").delete()
    tuned.suggestions("4").delete()
    assert ids(tuned.suggestions().fetch()) == ids(tuned.suggestions().fetch(deleted=False)) == ["3", "1"]
    assert ids(tuned.suggestions().fetch(deleted=True)) == ["4", "2"]
    assert ids(tuned.suggestions().fetch(deleted=True, state="open")) == ["4"]
    assert ids(tuned.suggestions().fetch(id="1,3,99")) == ["3", "1"] and ids(tuned.suggestions().fetch(id="1")) == ["1"]
    refused(lambda: tuned.suggestions().fetch(id="1;3"), text="id: must be ids")
    refused(lambda: tuned.suggestions().fetch(id=",".join(["1"] * 1001)), text="id: can have at most 1000 ids")
    assert ids(tuned.suggestions().fetch(id=",".join(["1"] * 1000))) == ["1"]


def test_only_open_suggestions_are_deleted_if_the_caller_says_so(connection: sigopt.Connection) -> None:
    tuned = connection.experiments(connection.experiments().create(**definition()).id)
    for _ in range(3):
        tuned.suggestions().create()
    tuned.observations().create(suggestion="2", failed=True)
    refused(lambda: tuned.suggestions().delete(state="new"), text="state: must be open or closed")
    tuned.suggestions().delete(state="open")
    assert ids(tuned.suggestions().fetch()) == ["2"]
    tuned.suggestions().delete()
    assert ids(tuned.suggestions().fetch()) == []


@pytest.mark.parametrize("sort", ["value", "value-auc"])
def test_observations_by_value(connection: sigopt.Connection, sort: str) -> None:
    tuned = observed(connection, [(0.7, None), (0.9, 0.1), (-0.8, 0.3)])
    assert ids(tuned.observations().fetch(sort=sort, limit=2)) == ["2", "1", "3"]
    assert ids(tuned.observations().fetch(sort=sort, ascending=True)) == ["3", "1", "2"]
    assert ids(tuned.observations().fetch(sort=sort.replace("value", "value_stddev"))) == ["1", "3", "2"]
    tuned.observations().create(assignments=CHOSEN, failed=True)
    assert ids(tuned.observations().fetch(sort=sort, limit=1)) == ["4", "2", "1", "3"]


def test_observations_by_parameter_and_deletion(connection: sigopt.Connection) -> None:
    tuned = observed(connection, [])
    for layers in (2, 4, 3):
        tuned.observations().create(assignments={**CHOSEN, "layers": layers}, failed=True)
    assert ids(tuned.observations().fetch(sort="parameter-layers")) == ["2", "3", "1"]
    assert ids(tuned.observations().fetch(sort="parameter-interaction", ascending=True)) == ["1", "2", "3"]
    tuned.observations("2").delete()
    assert ids(tuned.observations().fetch(deleted=True)) == ["2"]
    assert ids(tuned.observations().fetch(sort="parameter-layers", deleted=False)) == ["3", "1"]
    for sort in ("value-loss", "parameter-depth", "created"):
        refused(lambda sort=sort: tuned.observations().fetch(sort=sort), text="sort: must be id, value-METRIC")


def test_experiments_by_last_change_and_time_of_creation(service: TuningService, clock: Clock) -> None:
    connection = connect(service)
    start = int(clock.now)
    for _ in range(3):
        connection.experiments().create(**definition())
        clock.now += 10
    connection.experiments("1").update(name="renamed")
    listed = connection.clients(1).experiments()
    assert ids(listed.fetch(sort="recent", limit=1)) == ["1", "3", "2"] and ids(listed.fetch(sort="id")) == ["3", "2", "1"]
    assert ids(listed.fetch(sort="recent", search="DLRM")) == ["3", "2"]
    assert ids(listed.fetch(period_start=start + 10)) == ["3", "2"] and ids(listed.fetch(period_end=start + 10)) == ["1"]
    assert ids(listed.fetch(period_start=start + 10, period_end=start + 11)) == ["2"]
    refused(lambda: listed.fetch(period_start=2, period_end=1), text="period_start: must not be after period_end")
    refused(lambda: listed.fetch(sort="name"), text="sort: must be id or recent")
    refused(lambda: listed.fetch(sort="recent", before="1"), text="before: is not a paging marker")


def test_experiments_of_both_modules(connection: sigopt.Connection) -> None:
    connection.clients(1).projects().create(id="recsys", name="recsys")
    connection.experiments().create(**definition(project="recsys"))
    connection.clients(1).projects("recsys").aiexperiments().create(**definition(parameters=[INTERACTION]))
    of_project = connection.clients(1).projects("recsys").experiments()
    assert ids(of_project.fetch()) == ids(of_project.fetch(include_ai=False)) == ["1"]
    both = list(of_project.fetch(include_ai=True).iterate_pages())
    assert [one.to_json()["object"] for one in both] == ["aiexperiment", "experiment"]
    assert ids(connection.aiexperiments().fetch(sort="recent")) == ["2"]
    assert ids(of_project.fetch(development=True)) == [] and ids(of_project.fetch(development=False)) == ["1"]
    refused(connection.clients(1).projects("other").experiments().fetch, 404, "project other")


def test_a_project_changes_with_what_belongs_to_it(service: TuningService, clock: Clock) -> None:
    connection = connect(service)
    for name in ("first", "second"):
        connection.clients(1).projects().create(id=name, name=name)
        clock.now += 10
    projects = connection.clients(1).projects()
    assert ids(projects.fetch()) == ["second", "first"]
    tuned = connection.experiments(connection.experiments().create(**definition(project="first")).id)
    assert ids(projects.fetch(limit=1)) == ["first", "second"]
    for change in (
        lambda: tuned.observations().create(assignments=CHOSEN, failed=True),
        lambda: tuned.observations("1").delete(),
        lambda: connection.clients(1).projects("first").training_runs().create(name="run"),
        lambda: tuned.update(project=None),
        lambda: tuned.update(project="first"),
        tuned.delete,
    ):
        clock.now += 10
        change()
        assert connection.clients(1).projects("first").fetch().updated == clock.now
    assert ids(projects.fetch(sort="created", ascending=True)) == ["first", "second"]
