from __future__ import annotations

import pytest
import sigopt

from ml.tuning import schema
from ml.tuning.service import TuningService
from tests.helpers.tuning import INTERACTION, LAYERS, LEARNING_RATE, Clock, connect, definition, refused

DROPOUT = {"name": "dropout", "type": "double", "bounds": {"min": 0, "max": 0.5}, "default_value": 0.0}


def test_experiments_are_listed_newest_first(connection: sigopt.Connection) -> None:
    created = [connection.experiments().create(**definition(name=name)) for name in ("a", "b", "c")]
    connection.experiments(created[1].id).delete()
    for experiments in (connection.experiments(), connection.clients(1).experiments()):
        assert [one.name for one in experiments.fetch().iterate_pages()] == ["c", "a"]
    assert [one.name for one in connection.experiments().fetch(state="deleted").iterate_pages()] == ["b"]
    assert [one.name for one in connection.experiments().fetch(state="all", limit=2).iterate_pages()] == ["c", "b", "a"]
    refused(lambda: connection.experiments().fetch(state="closed"), text="state: must be active, deleted or all")


def test_an_update_changes_only_what_it_names(connection: sigopt.Connection, clock: Clock) -> None:
    created = connection.experiments().create(**definition(observation_budget=5, metadata={"day": "2026-01-01"}))
    clock.now += 60
    changed = connection.experiments(created.id).update(name="renamed", parallel_bandwidth=4, no_optimize=True)
    assert (changed.name, changed.parallel_bandwidth, changed.observation_budget) == ("renamed", 4, 5)
    assert changed.updated == created.updated + 60
    assert dict(changed.metadata) == {"day": "2026-01-01"}
    assert changed.parameters == created.parameters
    assert connection.experiments(created.id).fetch() == changed


def test_shown_parameters_can_be_sent_back(connection: sigopt.Connection) -> None:
    created = connection.experiments().create(**definition(parameters=[LAYERS, LEARNING_RATE, INTERACTION]))
    changed = connection.experiments(created.id).update(parameters=[*created.to_json()["parameters"], DROPOUT])
    assert [one.name for one in changed.parameters] == ["layers", "learning_rate", "interaction", "dropout"]


def test_an_experiment_of_a_project(service: TuningService) -> None:
    connection = connect(service)
    refused(lambda: connection.experiments().create(**definition(project="ctr")), text="the project does not exist")
    with service.database.transaction() as database:
        database.execute(schema.projects.insert().values(client=1, id="ctr", name="CTR", deleted=False, created=0, updated=0))
    created = connection.experiments().create(**definition(project="ctr"))
    connection.experiments().create(**definition())
    assert created.project == "ctr"
    assert [one.id for one in connection.clients(1).projects("ctr").experiments().fetch().iterate_pages()] == [created.id]
    assert connection.experiments(created.id).update(project=None).project is None


def test_clients_see_only_their_own_experiments(service: TuningService) -> None:
    with service.database.transaction() as database:
        database.execute(schema.clients.insert().values(name="second", created=0))
        for token, client, experiment in (("first", 1, None), ("second", 2, None), ("only", 1, 2)):
            database.execute(
                schema.tokens.insert().values(token=token, client=client, experiment=experiment, development=False, created=0)
            )
    first, second, only = (connect(service, client_token=token) for token in ("first", "second", "only"))
    identity = first.experiments().create(**definition()).id
    refused(second.experiments(identity).fetch, 404, "There is no experiment 1")
    refused(second.clients(1).experiments().fetch, 404, "There is no client 1")
    assert second.experiments().fetch().count == 0
    first.experiments().create(**definition())
    assert [one.id for one in only.experiments().fetch().iterate_pages()] == ["2"]
    refused(only.experiments(1).fetch, 403, "The token gives access to experiment 2 only")
    refused(lambda: only.experiments().create(**definition()), 403)


@pytest.mark.parametrize("identity", ["0", "x", "1" * 40, "-1", "1.0", "%"])
def test_experiments_that_do_not_exist(connection: sigopt.Connection, identity: str) -> None:
    refused(connection.experiments(identity).fetch, 404, f"There is no experiment {identity}")


def test_tasks_consume_their_share_of_the_budget(service: TuningService) -> None:
    connection = connect(service, worker="a")
    tasks = [{"name": "full", "cost": 1}, {"name": "tenth", "cost": 0.1}]
    created = connection.experiments().create(**definition(tasks=tasks, observation_budget=2))
    assert [task.cost for task in created.tasks] == [1, 0.1]
    tuned = connection.experiments(created.id)
    chosen = {"learning_rate": 0.01, "layers": 3, "interaction": "dcn"}
    suggestion = tuned.suggestions().create(assignments=chosen, task="tenth")
    assert suggestion.task.name == "tenth"
    observation = tuned.observations().create(suggestion=suggestion.id, values=[{"name": "auc", "value": 0.7}])
    assert observation.task.cost == 0.1
    assert tuned.fetch().progress.observation_budget_consumed == pytest.approx(0.1)
    drawn = set()
    for _ in range(30):
        other = connect(service).experiments(created.id).suggestions().create()
        drawn.add(other.task.name)
    assert drawn == {"full", "tenth"}
    refused(lambda: tuned.suggestions().create(task="half"), text="task: must be one of full, tenth, not half")
