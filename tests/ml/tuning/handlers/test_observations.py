from __future__ import annotations

from typing import Any

import pytest
import sigopt

from tests.helpers.tuning import definition, refused

CHOSEN = {"learning_rate": 0.01, "layers": 3, "interaction": "dcn"}


def experiment(connection: sigopt.Connection, **changes: Any) -> Any:
    return connection.experiments(connection.experiments().create(**definition(**changes)).id)


def test_the_loop_of_the_documentation(connection: sigopt.Connection) -> None:
    tuned = experiment(connection, observation_budget=4)
    for _ in range(tuned.fetch().observation_budget):
        suggestion = tuned.suggestions().create()
        observation = tuned.observations().create(
            suggestion=suggestion.id, values=[{"name": "auc", "value": 0.75, "value_stddev": 0.01}]
        )
        assert (observation.suggestion, observation.assignments) == (suggestion.id, suggestion.assignments)
        assert (observation.values[0].name, observation.values[0].value, observation.values[0].value_stddev) == (
            "auc",
            0.75,
            0.01,
        )
        assert tuned.suggestions(suggestion.id).fetch().state == "closed"
    progress = tuned.fetch().progress
    assert (progress.observation_count, progress.observation_budget_consumed) == (4, 4)


def test_explicit_assignments_and_failures(connection: sigopt.Connection) -> None:
    tuned = experiment(connection)
    observation = tuned.observations().create(
        assignments=CHOSEN, failed=True, metadata={"log": "out of memory"}, no_optimize=True
    )
    assert (observation.failed, observation.suggestion, observation.values) == (True, None, [])
    assert dict(observation.assignments) == CHOSEN
    assert tuned.observations(observation.id).fetch() == observation


def test_a_suggestion_has_one_result(connection: sigopt.Connection) -> None:
    tuned = experiment(connection)
    suggestion = tuned.suggestions().create()
    first = tuned.observations().create(suggestion=suggestion.id, values=[{"name": "auc", "value": 0.75}])
    again = tuned.observations().create(suggestion=suggestion.id, values=[{"name": "auc", "value": 0.76}])
    assert again == first
    assert tuned.observations().fetch().count == 1


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"values": [{"name": "auc", "value": 1}]}, "suggestion: exactly one of suggestion and assignments is required"),
        ({"assignments": CHOSEN, "suggestion": 1, "failed": True}, "suggestion: there is no suggestion 1"),
        ({"assignments": CHOSEN}, "values: is required"),
        ({"assignments": CHOSEN, "values": []}, "values: lacks the metric auc"),
        ({"assignments": CHOSEN, "values": [{"name": "loss", "value": 1}]}, "values[0].name: there is no metric loss"),
        ({"assignments": CHOSEN, "values": [{"name": "auc", "value": "1"}]}, "values[0].value: must be a number, not a string"),
        (
            {"assignments": CHOSEN, "values": [{"name": "auc", "value": float("nan")}]},
            "values[0].value: must be a finite number",
        ),
        ({"assignments": CHOSEN, "values": [{"name": "auc", "value": 1, "value_stddev": -1}]}, "must not be negative"),
        ({"assignments": CHOSEN, "values": [{"name": "auc", "value": 1}] * 2}, "values[1].name: auc occurs twice"),
        (
            {"assignments": CHOSEN, "failed": True, "values": [{"name": "auc", "value": 1}]},
            "failed: a failed observation cannot",
        ),
        ({"assignments": CHOSEN, "failed": "yes"}, "failed: must be true or false"),
        ({"assignments": CHOSEN, "failed": True, "task": "cheap"}, "task: only experiments with tasks"),
        ({"assignments": CHOSEN, "failed": True, "valuse": 1}, "valuse: is not a known key"),
    ],
)
def test_invalid_observations(connection: sigopt.Connection, body: dict[str, Any], text: str) -> None:
    tuned = experiment(connection)
    refused(lambda: tuned.observations().create(**body), text=text)
    assert tuned.observations().fetch().count == 0


def test_all_metrics_must_have_a_value(connection: sigopt.Connection) -> None:
    metrics = [{"name": "auc"}, {"name": "seconds", "strategy": "store", "objective": "minimize"}]
    tuned = experiment(connection, metrics=metrics)
    refused(
        lambda: tuned.observations().create(assignments=CHOSEN, values=[{"name": "auc", "value": 1}]),
        text="values: lacks the metric seconds",
    )


def test_an_experiment_with_one_metric_without_a_name(connection: sigopt.Connection) -> None:
    tuned = experiment(connection, metrics=None)
    assert [metric.name for metric in tuned.fetch().metrics] == [None]
    assert tuned.observations().create(assignments=CHOSEN, values=[{"value": 1}]).values[0].value == 1
    assert tuned.observations().create(assignments=CHOSEN, value=2, value_stddev=0.5).values[0].value_stddev == 0.5


def test_a_batch_is_stored_as_a_whole_or_not_at_all(connection: sigopt.Connection) -> None:
    tuned = experiment(connection)
    good = {"assignments": CHOSEN, "values": [{"name": "auc", "value": 0.7}]}
    refused(
        lambda: tuned.observations().create_batch(observations=[good, {"assignments": CHOSEN}]),
        text="observations[1].values: is required",
    )
    assert tuned.observations().fetch().count == 0
    stored = list(
        tuned.observations().create_batch(observations=[good, {"assignments": CHOSEN, "failed": True}]).iterate_pages()
    )
    assert [one.failed for one in stored] == [False, True]
    refused(lambda: tuned.observations().create_batch(observations=[good] * 2501), text="at most 2500")


def test_updates_and_deletions(connection: sigopt.Connection) -> None:
    tuned = experiment(connection)
    suggestion = tuned.suggestions().create()
    first = tuned.observations().create(assignments=CHOSEN, values=[{"name": "auc", "value": 0.7}])
    changed = tuned.observations(first.id).update(values=[{"name": "auc", "value": 0.8}], metadata={"seed": 7})
    assert (changed.values[0].value, dict(changed.metadata), changed.assignments) == (0.8, {"seed": 7}, first.assignments)
    assert tuned.observations(first.id).update(failed=True, values=None).failed
    assert tuned.observations(first.id).update(values=[{"name": "auc", "value": 0.9}], failed=None).values[0].value == 0.9
    moved = tuned.observations(first.id).update(suggestion=suggestion.id, assignments=None)
    assert (moved.suggestion, moved.assignments) == (suggestion.id, suggestion.assignments)
    tuned.observations(first.id).delete()
    refused(tuned.observations(first.id).fetch, 404)
    assert tuned.fetch().progress.observation_count == 0
    assert tuned.observations().create(suggestion=suggestion.id, failed=True).id != first.id
    tuned.observations().delete()
    assert tuned.observations().fetch().count == 0


def test_a_changed_value_keeps_its_deviation(connection: sigopt.Connection) -> None:
    tuned = experiment(connection)
    tuned.observations().create(assignments=CHOSEN, values=[{"name": "auc", "value": 0.7, "value_stddev": 0.1}])

    def changed(**item: object) -> tuple[float, float | None]:
        (found,) = tuned.observations("1").update(values=[item]).values
        return found.value, found.value_stddev

    assert changed(value=0.8) == changed(name="", value=0.8) == changed(name="auc", value=0.8) == (0.8, 0.1)
    assert changed(value=0.8, value_stddev=0.2) == (0.8, 0.2) and changed(value=0.8, value_stddev=None) == (0.8, None)
    refused(lambda: tuned.observations("1").update(values=[{"name": "", "value": None}]), text="values[0].value: is required")


def test_an_update_leaves_values_or_a_failure(connection: sigopt.Connection) -> None:
    tuned = experiment(connection)
    values = [{"name": "auc", "value": 0.7}]
    tuned.observations().create(assignments=CHOSEN, values=values)
    tuned.observations().create(assignments=CHOSEN, failed=True)
    measured, failed = tuned.observations("1"), tuned.observations("2")
    for change in ({"failed": True}, {"failed": True, "values": values}):
        refused(lambda change=change: measured.update(**change), text="failed: a failed observation cannot have values")
    refused(lambda: measured.update(values=None), text="values: is required")
    refused(lambda: failed.update(values=values), text="failed: a failed observation cannot have values")
    refused(lambda: failed.update(failed=False), text="values: is required")
    assert measured.update(failed=False).values[0].value == 0.7 and failed.update(failed=True, values=None).failed
    assert failed.update(failed=False, values=values).values[0].value == 0.7
    assert measured.update(failed=True, values=None).values == []


def test_an_update_leaves_a_suggestion_or_assignments(connection: sigopt.Connection) -> None:
    tuned = experiment(connection)
    first, second = tuned.suggestions().create(), tuned.suggestions().create()
    tuned.observations().create(suggestion=first.id, failed=True)
    tuned.observations().create(assignments=CHOSEN, failed=True)
    suggested, chosen = tuned.observations("1"), tuned.observations("2")
    for refusal in (
        lambda: suggested.update(suggestion=None),
        lambda: suggested.update(assignments=CHOSEN),
        lambda: suggested.update(suggestion=None, assignments=None),
        lambda: chosen.update(assignments=None),
        lambda: chosen.update(suggestion=second.id),
        lambda: chosen.update(suggestion=second.id, assignments=CHOSEN),
    ):
        refused(refusal, text="suggestion: exactly one of suggestion and assignments is required")
    assert suggested.update(assignments=None).suggestion == first.id and chosen.update(suggestion=None).suggestion is None
    assert suggested.update(suggestion=second.id).assignments == second.assignments
    assert dict(suggested.update(suggestion=None, assignments=CHOSEN).assignments) == CHOSEN
    assert chosen.update(suggestion=first.id, assignments=None).assignments == first.assignments


def test_several_tasks_need_one_for_chosen_assignments(connection: sigopt.Connection) -> None:
    tasks = [{"name": "full", "cost": 1}, {"name": "tenth", "cost": 0.1}]
    tuned = experiment(connection, tasks=tasks, observation_budget=9)
    values = [{"name": "auc", "value": 0.9}]
    refused(lambda: tuned.observations().create(assignments=CHOSEN, values=values), text="task: is required")
    refused(lambda: tuned.queued_suggestions().create(assignments=CHOSEN), text="task: is required")
    refused(
        lambda: tuned.suggestions().create(assignments=CHOSEN), text="task: assignments and task are only accepted together"
    )
    refused(lambda: tuned.suggestions().create(task="tenth"), text="task: assignments and task are only accepted together")
    suggestion = tuned.suggestions().create(assignments=CHOSEN, task="tenth")
    assert tuned.suggestions(suggestion.id).update(task="full").task.name == "tenth"
    tuned.observations().create(suggestion=suggestion.id, values=values)
    assert tuned.best_assignments().fetch().count == 0 and tuned.fetch().progress.best_observation is None
    refused(lambda: tuned.observations("1").update(task="full"), text="task: cannot be combined with a suggestion")
    refused(lambda: tuned.observations("1").update(suggestion=None, assignments=CHOSEN), text="task: is required")
    assert tuned.observations("1").update(suggestion=None, assignments=CHOSEN, task="full").task.name == "full"
    (best,) = tuned.best_assignments().fetch().iterate_pages()
    assert best.id == "1" and tuned.observations("1").update(assignments=CHOSEN).task.name == "full"


def test_pages_are_read_in_both_directions(connection: sigopt.Connection) -> None:
    tuned = experiment(connection)
    tuned.observations().create_batch(observations=[{"assignments": CHOSEN, "failed": True}] * 7)
    assert [one.id for one in tuned.observations().fetch(limit=3).iterate_pages()] == list("7654321")
    assert [one.id for one in tuned.observations().fetch(limit=3, ascending=True, after="2").iterate_pages()] == list("34567")
    assert [one.id for one in tuned.observations().fetch(limit=3, after="2")._unsafe_data] == list("543")  # newest first
    assert [one.id for one in tuned.observations().fetch(before="6", after="2")._unsafe_data] == list("543")
    assert [one.id for one in tuned.observations().fetch(before="6", ascending=True, limit=2)._unsafe_data] == list("45")
    first, last = tuned.observations().fetch(limit=3).paging, tuned.observations().fetch(limit=3, before="2").paging
    assert (first.before, first.after) == ("5", "7") and (last.before, last.after) == (None, "1")
    empty = tuned.observations().fetch(limit=0)
    assert empty.count == 7 and (empty.paging.before, empty.paging.after) == ("8", None)
    refused(lambda: tuned.observations().fetch(limit=-1), text="limit: must be an integer between 0 and 1000")
    refused(lambda: tuned.observations().fetch(before="x"), text="before: is not a paging marker")


def test_progress_shows_the_best_observation(connection: sigopt.Connection) -> None:
    tuned = experiment(connection)
    for value in (0.7, 0.9, 0.8):
        tuned.observations().create(assignments=CHOSEN, values=[{"name": "auc", "value": value}])
    progress = tuned.fetch().to_json()["progress"]
    found = {key: progress[key]["values"][0]["value"] for key in ("first_observation", "best_observation", "last_observation")}
    assert found == {"first_observation": 0.7, "best_observation": 0.9, "last_observation": 0.8}


def test_a_deleted_experiment_accepts_nothing(connection: sigopt.Connection) -> None:
    tuned = experiment(connection)
    tuned.delete()
    refused(lambda: tuned.observations().create(assignments=CHOSEN, failed=True), text="for deleted experiment")
    refused(tuned.suggestions().create, text="Cannot create suggestions for deleted experiment")
    assert tuned.update(state="active").state == "active"
    tuned.suggestions().create()
