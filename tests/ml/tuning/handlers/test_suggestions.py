from __future__ import annotations

from typing import Any

import pytest
import sigopt

from ml.tuning.database import Database
from ml.tuning.definition import Assignments, Study
from ml.tuning.service import TuningService
from tests.helpers.tuning import DIMENSION, INTERACTION, LAYERS, LEARNING_RATE, Clock, connect, definition, refused

CHOSEN = {"learning_rate": 0.01, "layers": 3, "interaction": "dcn"}
DROPOUT: dict[str, Any] = {"name": "dropout", "type": "double", "bounds": {"min": 0, "max": 0.5}, "default_value": 0.1}
UPDATED = [LEARNING_RATE, {**LAYERS, "bounds": {"min": 1, "max": 4}}, DROPOUT]
"""An update of the parameters: fewer layers, no interaction, and dropout."""


def test_a_suggestion_assigns_every_parameter_within_its_bounds(connection: sigopt.Connection) -> None:
    experiment = connection.experiments().create(**definition(parameters=[*definition()["parameters"], DIMENSION]))
    suggestion = connection.experiments(experiment.id).suggestions().create(metadata={"host": "a"})
    assert set(suggestion.assignments) == {"learning_rate", "layers", "interaction", "dimension"}
    assert 1e-4 <= suggestion.assignments["learning_rate"] <= 0.1
    assert suggestion.assignments["dimension"] in (16, 64, 128)
    assert (suggestion.state, suggestion.experiment, dict(suggestion.metadata)) == ("open", experiment.id, {"host": "a"})
    assert connection.experiments(experiment.id).suggestions(suggestion.id).fetch() == suggestion


def test_a_caller_without_a_name_gets_a_new_suggestion_each_time(connection: sigopt.Connection) -> None:
    suggestions = connection.experiments(connection.experiments().create(**definition()).id).suggestions()
    first, second = suggestions.create(), suggestions.create()
    assert first.id != second.id
    assert first.assignments != second.assignments
    assert [one.id for one in suggestions.fetch().iterate_pages()] == [second.id, first.id]


def test_explicit_assignments_are_checked(connection: sigopt.Connection) -> None:
    suggestions = connection.experiments(connection.experiments().create(**definition()).id).suggestions()
    assert suggestions.create(assignments={**CHOSEN, "layers": 99}).assignments["layers"] == 99  # bounds can change
    refused(lambda: suggestions.create(assignments={**CHOSEN, "layers": "3"}), text="assignments.layers: must be a number")
    refused(lambda: suggestions.create(assignments={"layers": 3}), text="assignments.learning_rate: is required")
    refused(lambda: suggestions.create(assignments={**CHOSEN, "momentum": 1}), text="assignments.momentum: is not a known key")
    refused(lambda: suggestions.create(assignments={**CHOSEN, "interaction": "dot"}), text="must be one of dcn, original")
    refused(lambda: suggestions.create(assignments={**CHOSEN, "learning_rate": -1}), text="must be positive")
    refused(lambda: suggestions.create(budget=1), text="budget: is not a known key")


def test_queued_suggestions_are_served_first(connection: sigopt.Connection) -> None:
    experiment = connection.experiments(connection.experiments().create(**definition()).id)
    waiting = [experiment.queued_suggestions().create(assignments={**CHOSEN, "layers": layers}) for layers in (2, 5, 7)]
    experiment.queued_suggestions(waiting[1].id).delete()
    assert [one.id for one in experiment.queued_suggestions().fetch().iterate_pages()] == [waiting[2].id, waiting[0].id]
    assert experiment.queued_suggestions(waiting[2].id).fetch() == waiting[2]
    assert [experiment.suggestions().create().assignments["layers"] for _ in range(2)] == [2, 7]
    assert experiment.queued_suggestions().fetch().count == 0
    refused(experiment.queued_suggestions(waiting[2].id).fetch, 404)
    assert experiment.suggestions().create().assignments != CHOSEN


def test_an_update_of_the_parameters_revises_the_queue(connection: sigopt.Connection) -> None:
    experiment = connection.experiments(connection.experiments().create(**definition()).id)
    waiting = [experiment.queued_suggestions().create(assignments={**CHOSEN, "layers": layers}) for layers in (8, 3, 5, 4)]
    experiment.update(name="renamed")
    assert experiment.queued_suggestions().fetch().count == 4
    experiment.update(parameters=UPDATED)
    revised = [{"learning_rate": 0.01, "layers": layers, "dropout": 0.1} for layers in (3, 4)]
    listed = experiment.queued_suggestions().fetch(ascending=True).iterate_pages()
    assert [dict(one.assignments) for one in listed] == revised
    for outside in (waiting[0], waiting[2]):
        text = f"queued suggestion {outside.id} was removed, because an update of the parameters excludes its assignments"
        refused(experiment.queued_suggestions(outside.id).fetch, 404, text)
        refused(experiment.queued_suggestions(outside.id).delete, 404, text)
    assert [dict(experiment.suggestions().create().assignments) for _ in revised] == revised
    assert set(experiment.suggestions().create().assignments) == set(revised[0])


def test_queued_values_outside_the_bounds_stay_unless_the_update_changes_those_bounds(connection: sigopt.Connection) -> None:
    experiment = connection.experiments(connection.experiments().create(**definition()).id)
    queued = experiment.queued_suggestions().create(assignments={**CHOSEN, "layers": 99})
    others: list[dict[str, Any]] = [{**LEARNING_RATE, "bounds": {"min": 1e-3, "max": 0.2}}, LAYERS, DROPOUT]
    experiment.update(parameters=others)
    stays = {"learning_rate": 0.01, "layers": 99, "dropout": 0.1}
    assert dict(experiment.queued_suggestions(queued.id).fetch().assignments) == stays
    experiment.update(parameters=[{**LEARNING_RATE, "bounds": {"min": 0.02, "max": 0.2}}, LAYERS, DROPOUT])
    refused(experiment.queued_suggestions(queued.id).fetch, 404, "an update of the parameters excludes its assignments")
    queued = experiment.queued_suggestions().create(assignments={**stays, "learning_rate": 0.05})
    experiment.update(parameters=[others[0], {**LAYERS, "bounds": {"min": 1, "max": 100}}, DROPOUT])
    assert experiment.queued_suggestions(queued.id).fetch().assignments["layers"] == 99
    experiment.update(parameters=[others[0], {**LAYERS, "bounds": {"min": 1, "max": 50}}, DROPOUT])
    refused(experiment.queued_suggestions(queued.id).fetch, 404, "an update of the parameters excludes its assignments")


def test_a_restarted_worker_gets_no_suggestion_from_before_an_update(service: TuningService) -> None:
    worker = connect(service, worker="a")
    experiment = worker.experiments(worker.experiments().create(**definition(observation_budget=2)).id)
    experiment.queued_suggestions().create(assignments={**CHOSEN, "layers": 8})
    before = experiment.suggestions().create()
    assert experiment.suggestions().create().id == before.id
    experiment.update(parameters=UPDATED)
    after = experiment.suggestions().create()
    assert set(after.assignments) == {"learning_rate", "layers", "dropout"} and after.assignments["layers"] <= 4
    assert experiment.suggestions().create().id == after.id
    other = connect(service, worker="b").experiments(experiment.fetch().id)
    other.suggestions().create()  # the suggestion from before holds no budget
    values = [{"name": "auc", "value": 0.7}]
    assert dict(experiment.observations().create(suggestion=before.id, values=values).assignments) == {**CHOSEN, "layers": 8}


def test_a_worker_keeps_values_outside_the_bounds_that_a_user_chose(service: TuningService) -> None:
    worker = connect(service, worker="a")
    experiment = worker.experiments(worker.experiments().create(**definition()).id)
    chosen = experiment.suggestions().create(assignments={**CHOSEN, "layers": 99})
    assert experiment.suggestions().create().id == chosen.id
    experiment.update(parameters=[*definition()["parameters"], DROPOUT])
    assert experiment.suggestions().create().id != chosen.id  # it lacks the dropout


def test_parameters_that_change_while_a_suggestion_is_computed(address: str) -> None:
    def engine(study: Study) -> Assignments:
        seen.append([one.name for one in study.space.parameters])
        if len(seen) == 1:
            experiment.update(parameters=UPDATED)
            return CHOSEN
        return {"learning_rate": 0.01, "layers": 2, "dropout": 0.2}

    seen: list[list[str]] = []
    connection = connect(TuningService(Database(address), engine=engine))
    experiment = connection.experiments(connection.experiments().create(**definition()).id)
    assert set(experiment.suggestions().create().assignments) == {"learning_rate", "layers", "dropout"}
    assert seen == [["learning_rate", "layers", "interaction"], ["learning_rate", "layers", "dropout"]]


def test_a_deleted_suggestion_is_not_listed(connection: sigopt.Connection) -> None:
    experiment = connection.experiments(connection.experiments().create(**definition()).id)
    kept, deleted = experiment.suggestions().create(), experiment.suggestions().create()
    experiment.suggestions(deleted.id).delete()
    assert [one.id for one in experiment.suggestions().fetch().iterate_pages()] == [kept.id]
    assert experiment.suggestions(deleted.id).fetch().to_json()["deleted"]
    experiment.suggestions().delete()
    assert experiment.suggestions().fetch().count == 0


def test_an_update_changes_the_metadata(connection: sigopt.Connection) -> None:
    experiment = connection.experiments(connection.experiments().create(**definition()).id)
    suggestion = experiment.suggestions().create()
    assert dict(experiment.suggestions(suggestion.id).update(metadata={"gpu": 1}).metadata) == {"gpu": 1}
    refused(lambda: experiment.suggestions(suggestion.id).update(state="closed"), text="state: cannot be changed")


def test_suggestions_of_another_experiment_are_not_found(connection: sigopt.Connection) -> None:
    one, other = (connection.experiments(connection.experiments().create(**definition()).id) for _ in range(2))
    suggestion = one.suggestions().create()
    refused(other.suggestions(suggestion.id).fetch, 404, f"There is no suggestion {suggestion.id}")
    refused(one.suggestions(10**30).fetch, 404)
    refused(one.suggestions("²").fetch, 404)


def test_no_combination_of_a_discrete_space_is_suggested_twice(service: TuningService, clock: Clock) -> None:
    connection = connect(service)
    created = connection.experiments().create(**definition(parameters=[DIMENSION, INTERACTION], type="grid"))
    assert created.observation_budget == 6
    suggestions = connection.experiments(created.id).suggestions()
    served = [suggestions.create() for _ in range(6)]
    assert len({str(one.assignments) for one in served}) == 6
    refused(suggestions.create, 409, "Every point of experiment")
    connection.experiments(created.id).observations().create(suggestion=served[0].id, failed=True)
    clock.now += service.leases.anonymous + 1  # all callers are gone, so their combinations are tried again
    again = [suggestions.create() for _ in range(5)]
    assert {str(one.assignments) for one in again} == {str(one.assignments) for one in served[1:]}
    refused(suggestions.create, 409)


@pytest.mark.parametrize("values", [["cross", "dot"]])
def test_conditions(connection: sigopt.Connection, values: list[str]) -> None:
    parameters = [LAYERS, {"name": "rank", "type": "int", "bounds": {"min": 1, "max": 4}, "conditions": {"arch": ["cross"]}}]
    created = connection.experiments().create(
        **definition(parameters=parameters, conditionals=[{"name": "arch", "values": values}])
    )
    suggestions = connection.experiments(created.id).suggestions()
    served = [suggestions.create().assignments for _ in range(8)]
    assert {one["arch"] for one in served} == set(values)
    assert all(("rank" in one) == (one["arch"] == "cross") for one in served)
    refused(
        lambda: suggestions.create(assignments={"layers": 1, "arch": "dot", "rank": 2}), text="assignments.rank: must be absent"
    )
