"""Checkpoints of suggestions, and observations of trials that were stopped early."""

from __future__ import annotations

from typing import Any

import pytest
import sigopt

from tests.helpers.tuning import LAYERS, Clock, definition, refused

AUC, SECONDS = {"name": "auc"}, {"name": "seconds", "objective": "minimize"}
STEPS = 3


class Trials:
    """An experiment whose trials report checkpoints."""

    def __init__(self, connection: sigopt.Connection, **changes: Any) -> None:
        self.connection = connection
        body = definition(**{"parameters": [LAYERS], "observation_budget": 20, "type": "random", **changes})
        self.id = connection.experiments().create(**body).id
        self.experiment: Any = connection.experiments(self.id)

    def suggestion(self, layers: int = 1) -> str:
        return self.experiment.suggestions().create(assignments={"layers": layers}).id

    def report(self, suggestion: str, step: Any, **values: float) -> dict[str, Any]:
        body = {"step": step, "values": [{"name": name, "value": value} for name, value in values.items()]}
        return self.request("POST", suggestion, body)

    def request(self, method: str, suggestion: str, body: dict[str, Any]) -> dict[str, Any]:
        path = ["experiments", self.id, "suggestions", suggestion, "checkpoints"]
        return self.connection.impl.request(method, path, body, None) or {}

    def rivals(self, *values: dict[str, float], complete: bool = True) -> None:
        """Run trials with the same values at each checkpoint and at the end."""
        for one in values:
            suggestion = self.suggestion()
            for step in range(1, STEPS + 1):
                self.report(suggestion, step, **one)
            if complete:
                given = [{"name": name, "value": value} for name, value in one.items()]
                self.experiment.observations().create(suggestion=suggestion, values=given)


RIVALS = [{"auc": auc} for auc in (0.70, 0.71, 0.72, 0.73)]


@pytest.mark.parametrize("complete", [True, False])
def test_a_trial_below_the_median_of_the_others_should_stop(connection: sigopt.Connection, complete: bool) -> None:
    trials = Trials(connection)
    trials.rivals(*RIVALS, complete=complete)
    bad, good = trials.suggestion(), trials.suggestion()
    stored = trials.report(bad, 1, auc=0.71)
    assert (stored["should_stop"], stored["stopping_reasons"]) == (True, {"median_rule": True, "threshold_rule": False})
    assert (stored["object"], stored["suggestion"], stored["step"]) == ("checkpoint", bad, 1)
    assert not trials.report(good, 1, auc=0.72)["should_stop"]
    assert not trials.report(good, STEPS + 1, auc=0.1)["should_stop"], "no other trial came as far"


def test_few_trials_and_other_experiments_say_nothing(connection: sigopt.Connection) -> None:
    other, trials = Trials(connection), Trials(connection)
    other.rivals(*RIVALS)
    trials.rivals(*RIVALS[:3])
    assert not trials.report(trials.suggestion(), 1, auc=0.1)["should_stop"]


def test_deleted_suggestions_say_nothing(connection: sigopt.Connection) -> None:
    trials = Trials(connection)
    trials.rivals(*RIVALS)
    trials.experiment.suggestions().delete()
    assert not trials.report(trials.suggestion(), 1, auc=0.1)["should_stop"]


def test_two_metrics_stop_a_trial_only_if_both_are_worse(connection: sigopt.Connection) -> None:
    trials = Trials(connection, metrics=[AUC, SECONDS])
    trials.rivals(*({**one, "seconds": 10.0} for one in RIVALS))
    assert not trials.report(trials.suggestion(), 1, auc=0.1, seconds=9)["should_stop"]
    assert not trials.report(trials.suggestion(), 1, auc=0.1)["should_stop"]
    assert trials.report(trials.suggestion(), 1, auc=0.1, seconds=11)["should_stop"]


def test_a_missed_threshold_stops_a_trial(connection: sigopt.Connection) -> None:
    trials = Trials(connection, metrics=[AUC, {**SECONDS, "threshold": 50}])
    late = trials.suggestion()
    answers = [trials.report(late, step, auc=0.9, seconds=40.0 * step)["stopping_reasons"] for step in (1, 2, 4)]
    assert [answer["threshold_rule"] for answer in answers] == [False, False, True]


def test_trials_are_compared_at_the_same_step_although_reports_were_lost(connection: sigopt.Connection) -> None:
    trials = Trials(connection)
    for number in range(4):
        rival = trials.suggestion()
        if number:
            trials.report(rival, 1, auc=0.1)
        trials.report(rival, 2, auc=0.8)
    assert not trials.report(trials.suggestion(), 1, auc=0.0)["should_stop"], "three others have the step"
    assert trials.report(trials.suggestion(), 2, auc=0.7)["should_stop"]


def test_a_repeated_report_returns_what_is_stored(connection: sigopt.Connection) -> None:
    trials = Trials(connection)
    suggestion = trials.suggestion()
    first = trials.report(suggestion, 1, auc=0.5)
    trials.rivals(*RIVALS)
    assert trials.report(suggestion, 1, auc=0.6) == first
    trials.report(suggestion, 2, auc=0.6)
    listed = trials.request("GET", suggestion, {})
    assert (listed["object"], listed["count"]) == ("pagination", 2)
    assert [(one["step"], one["values"][0]["value"]) for one in listed["data"]] == [(2, 0.6), (1, 0.5)]


def test_a_report_renews_the_lease(connection: sigopt.Connection, clock: Clock) -> None:
    trials = Trials(connection)
    body = {"assignments": {"layers": 1}, "metadata": {"evergreen_worker": "one"}}
    created = connection.impl.request("POST", ["experiments", trials.id, "suggestions"], body, None) or {}
    clock.now += 20
    trials.report(created["id"], 1, auc=0.5)
    renewed = trials.experiment.suggestions(created["id"]).fetch().to_json()
    assert renewed["lease"]["expires"] == created["lease"]["expires"] + 20


def test_what_is_refused(connection: sigopt.Connection) -> None:
    trials = Trials(connection)
    suggestion = trials.suggestion()
    for step, text in (
        (None, "step: is required"),
        (0, "step: must be at least 1"),
        (201, "step: must be at most 200, not 201"),
    ):
        refused(lambda step=step: trials.report(suggestion, step, auc=0.5), 400, text)
    refused(lambda: trials.report(suggestion, 1), 400, "values")
    refused(lambda: trials.report("99", 1, auc=0.5), 404, "suggestion 99")
    refused(lambda: trials.request("POST", suggestion, {"step": 1, "values": [{"name": "a", "value": 1}], "x": 1}), 400, "x")
    trials.report(suggestion, 1, auc=0.5)
    trials.experiment.observations().create(suggestion=suggestion, failed=True)
    assert trials.report(suggestion, 1, auc=0.5)["step"] == 1
    refused(lambda: trials.report(suggestion, 2, auc=0.5), 403, "has a result")


def test_a_stopped_observation_is_never_the_best_and_uses_up_the_budget(connection: sigopt.Connection) -> None:
    trials = Trials(connection, observation_budget=2)
    observations = trials.experiment.observations()
    stopped = observations.create(suggestion=trials.suggestion(), stopped=True).to_json()
    assert (stopped["failed"], stopped["stopped"], stopped["values"]) == (True, True, [])
    assert trials.experiment.best_assignments().fetch().count == 0
    observations.create(suggestion=trials.suggestion(), values=[{"name": "auc", "value": 0.1}])
    assert trials.experiment.best_assignments().fetch().count == 1
    assert trials.experiment.stopping_criteria().fetch().reasons == ["observation_budget_reached"]
    assert trials.experiment.fetch().progress.observation_count == 2
    shown = [one.to_json() for one in trials.experiment.observations().fetch().iterate_pages()]
    assert [one.get("stopped") for one in shown] == [None, True]


def test_a_stopped_observation_has_a_suggestion_and_no_values(connection: sigopt.Connection) -> None:
    trials = Trials(connection)
    create = trials.experiment.observations().create
    refused(lambda: create(assignments={"layers": 1}, stopped=True), 400, "stopped: only the trial of a suggestion")
    values = [{"name": "auc", "value": 0.1}]
    refused(lambda: create(suggestion=trials.suggestion(), stopped=True, values=values), 400, "stopped: a stopped observation")
    stopped = create(suggestion=trials.suggestion(), stopped=True)
    corrected = trials.experiment.observations(stopped.id).update(values=values, failed=False).to_json()
    assert not corrected["failed"] and "stopped" not in corrected
