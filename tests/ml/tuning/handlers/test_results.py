from __future__ import annotations

from typing import Any

import pytest
import sigopt

from tests.helpers.tuning import INTERACTION, LAYERS, definition, refused

AUC, SECONDS = {"name": "auc", "threshold": 0.6}, {"name": "seconds", "objective": "minimize", "threshold": 100}
LOSS = {"name": "loss", "objective": "minimize"}


def observed(connection: sigopt.Connection, results: list[dict[str, float] | None], **changes: Any) -> Any:
    """Return an experiment with observations; None is a failure."""
    body = definition(**{"observation_budget": 50, "parameters": [LAYERS], **changes})
    tuned = connection.experiments(connection.experiments().create(**body).id)
    for layers, result in enumerate(results, start=1):
        values = None if result is None else [{"name": name, "value": value} for name, value in result.items()]
        tuned.observations().create(assignments={"layers": layers}, values=values, failed=result is None)
    return tuned


def best(tuned: Any) -> list[int]:
    return [one.assignments["layers"] for one in tuned.best_assignments().fetch().iterate_pages()]


def test_the_best_assignments_of_one_metric(connection: sigopt.Connection) -> None:
    tuned = observed(connection, [{"loss": 0.5}, None, {"loss": 0.4}, {"loss": 0.45}], metrics=[LOSS])
    assert best(tuned) == [3]
    (one,) = tuned.best_assignments().fetch().iterate_pages()
    assert (one.id, one.values[0].name, one.values[0].value) == ("3", "loss", 0.4)


def test_the_pareto_front_of_two_metrics_and_its_knee(connection: sigopt.Connection) -> None:
    results = [(0.7, 50), (0.8, 90), (0.78, 55), (0.75, 60), (0.9, 200), (0.5, 1)]
    tuned = observed(connection, [{"auc": auc, "seconds": seconds} for auc, seconds in results], metrics=[AUC, SECONDS])
    assert best(tuned) == [2, 3, 1]
    knees = [one.assignments["layers"] for one in tuned.best_assignments().fetch().iterate_pages() if "knee" in one.to_json()]
    assert knees == [3]


def test_nothing_is_best_if_no_observation_meets_the_thresholds(connection: sigopt.Connection) -> None:
    tuned = observed(connection, [{"auc": 0.5, "seconds": 10}, {"auc": 0.9, "seconds": 101}], metrics=[AUC, SECONDS])
    assert tuned.best_assignments().fetch().count == 0


def test_a_search_by_constraints_alone_shows_all_that_meet_them(connection: sigopt.Connection) -> None:
    metrics = [{**metric, "strategy": "constraint"} for metric in (AUC, SECONDS)]
    results = [{"auc": 0.7, "seconds": 10}, {"auc": 0.5, "seconds": 1}, {"auc": 0.6, "seconds": 100}]
    assert best(observed(connection, results, metrics=metrics)) == [1, 3]


def test_several_solutions_differ(connection: sigopt.Connection) -> None:
    results = [{"loss": value} for value in (0.9, 0.4, 0.41, 0.42, 0.8, 0.8, 0.45, 0.9)]
    tuned = observed(connection, results, metrics=[LOSS], num_solutions=2)
    assert best(tuned) == [2, 4]  # 3 is too close to 2
    for layers, loss in ((7, 0.2), (8, 0.3), (2, 0.3), (1, 0.2)):
        tuned.observations().create(assignments={"layers": layers}, values=[{"name": "loss", "value": loss}])
    assert best(tuned) == [7, 1]


def test_fewer_distant_solutions_than_asked_for_are_filled_up_with_the_farthest(connection: sigopt.Connection) -> None:
    results = [{"loss": value} for value in (0.41, 0.4, 0.8, 0.9)]
    assert best(observed(connection, results, metrics=[LOSS], num_solutions=2)) == [2, 1]
    assert best(observed(connection, results[:1], metrics=[LOSS], num_solutions=2)) == [1]


def test_an_experiment_stops_when_its_budget_is_reached(connection: sigopt.Connection) -> None:
    tuned = observed(connection, [{"loss": 1}], metrics=[LOSS], observation_budget=2)
    assert not tuned.stopping_criteria().fetch().should_stop
    tuned.observations().create(assignments={"layers": 1}, failed=True)
    criteria = tuned.stopping_criteria().fetch()
    assert (criteria.should_stop, criteria.reasons) == (True, ["observation_budget_reached"])


@pytest.mark.parametrize("last", [0.9, 1.1])
def test_an_experiment_stagnates_without_an_improvement(connection: sigopt.Connection, last: float) -> None:
    tuned = observed(connection, [])
    values = [1.0] * 5 + [0.5] * 4 + [last]
    observations = [{"assignments": {"layers": 1}, "values": [{"name": "auc", "value": value}]} for value in values]
    tuned.observations().create_batch(observations=observations)
    assert tuned.stopping_criteria().fetch().reasons == ([] if last > 1 else ["possible_stagnation"])


def test_importances_show_which_parameter_matters(connection: sigopt.Connection) -> None:
    metrics = [{"name": "auc"}, {"name": "loss", "strategy": "store"}]
    tuned = observed(connection, [], parameters=[LAYERS, INTERACTION], metrics=metrics)
    refused(tuned.metric_importances().fetch, 422, "has too few different results")
    for layers in range(1, 9):
        for index, interaction in enumerate(("dcn", "original")):
            values = [{"name": "auc", "value": 0.1 * layers}, {"name": "loss", "value": index}]
            tuned.observations().create(assignments={"layers": layers, "interaction": interaction}, values=values)
    found = {one.metric: dict(one.importances) for one in tuned.metric_importances().fetch().iterate_pages()}
    assert found["auc"]["layers"] > 0.9 > 0.1 > found["auc"]["interaction"]
    assert found["loss"]["interaction"] > 0.9


def test_advice(connection: sigopt.Connection) -> None:
    wide = {"name": "rate", "type": "double", "bounds": {"min": 0.0001, "max": 1}}
    created = connection.experiments().create(
        **definition(parameters=[wide, INTERACTION], observation_budget=5, parallel_bandwidth=8)
    )
    advice = connection.impl.request("GET", ["experiments", created.id, "best_practices"], {}, None)
    assert advice is not None
    assert [text.split()[0] for text in advice["violations"]] == ["The", "`observation_budget`", "`parallel_bandwidth`"]
    assert "2 parameters need at least 20 observations" in advice["violations"][1]
    refused(lambda: connection.impl.request("POST", ["experiments", created.id, "best_practices"], {}, None), 405)
