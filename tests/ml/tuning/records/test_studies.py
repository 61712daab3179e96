from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ml.tuning.database import Database
from ml.tuning.definition import Assignments, Study
from ml.tuning.service import TuningService
from tests.helpers.tuning import INTERACTION, LAYERS, Clock, connect, definition

DROPOUT = {"name": "dropout", "type": "double", "bounds": {"min": 0, "max": 0.5}}
VALUES = [{"name": "auc", "value": 0.7, "value_stddev": 0.1}]


@pytest.fixture
def studies(address: str, clock: Clock) -> tuple[TuningService, list[Study]]:
    """A service, and the studies that its engine sees."""
    seen: list[Study] = []

    def record(study: Study) -> Assignments:
        seen.append(study)
        return {"layers": len(study.open) + 1, "interaction": "dcn"}

    return TuningService(Database(address), engine=record, clock=clock), seen


def test_an_engine_sees_observations_and_open_suggestions_in_order(studies: tuple[TuningService, list[Study]]) -> None:
    service, seen = studies
    body = definition(parameters=[LAYERS, INTERACTION], observation_budget=9, parallel_bandwidth=3)
    tuned = connect(service).experiments(connect(service).experiments().create(**body).id)
    tuned.observations().create(assignments={"layers": 8, "interaction": "original"}, values=VALUES)
    tuned.observations().create(assignments={"layers": 7, "interaction": "original"}, failed=True)
    first = tuned.suggestions().create()
    tuned.suggestions().create()
    study = seen[-1]
    assert [(one.assignments["layers"], one.failed) for one in study.observations] == [(8, False), (7, True)]
    assert (study.observations[0].values, study.observations[0].deviations) == ({"auc": 0.7}, {"auc": 0.1})
    assert study.open == (dict(first.assignments),)
    assert (study.budget, study.bandwidth, study.kind) == (9, 3, "offline")
    assert [metric.name for metric in study.metrics] == ["auc"]


def test_assignments_follow_the_parameters_of_an_updated_experiment(studies: tuple[TuningService, list[Study]]) -> None:
    service, seen = studies
    tuned = connect(service).experiments(
        connect(service).experiments().create(**definition(parameters=[LAYERS, INTERACTION])).id
    )
    for layers in (2, 8):
        tuned.observations().create(assignments={"layers": layers, "interaction": "dcn"}, values=VALUES)
    tuned.update(parameters=[{**LAYERS, "bounds": {"min": 1, "max": 4}}, {**DROPOUT, "default_value": 0.25}])
    tuned.suggestions().create()
    assert [one.assignments for one in seen[-1].observations] == [{"layers": 2, "dropout": 0.25}]
    assert [dict(one.assignments) for one in tuned.observations().fetch().iterate_pages()] == [
        {"layers": 8, "interaction": "dcn"},
        {"layers": 2, "interaction": "dcn"},
    ]


def test_deleted_observations_are_unknown_to_the_engine(studies: tuple[TuningService, list[Study]]) -> None:
    service, seen = studies
    tuned = connect(service).experiments(
        connect(service).experiments().create(**definition(parameters=[LAYERS, INTERACTION])).id
    )
    observation = tuned.observations().create(assignments={"layers": 2, "interaction": "dcn"}, values=VALUES)
    tuned.observations(observation.id).delete()
    tuned.suggestions().create()
    assert seen[-1].observations == ()


def _suggested(address: str, restart: Callable[[str], TuningService]) -> list[dict[str, Any]]:
    connection = connect(restart(address))
    body = definition(parameters=[LAYERS, DROPOUT, INTERACTION], observation_budget=30)
    identity = connection.experiments().create(**body).id
    suggested = []
    for index in range(8):
        connection = connect(restart(address))
        suggestion = connection.experiments(identity).suggestions().create()
        suggested.append(dict(suggestion.assignments))
        values = None if index == 3 else [{"name": "auc", "value": 0.5 + 0.01 * suggestion.assignments["layers"]}]
        connection.experiments(identity).observations().create(suggestion=suggestion.id, values=values, failed=values is None)
    return suggested


def test_the_same_calls_give_the_same_suggestions_even_if_the_service_restarts(tmp_path: Path) -> None:
    lasting = TuningService(Database(tmp_path / "a" / "tuning.db"))
    without = _suggested("", lambda _: lasting)
    restarted = _suggested(str(tmp_path / "b" / "tuning.db"), lambda address: TuningService(Database(address)))
    assert without == restarted
    assert len({str(one) for one in without}) == 8
