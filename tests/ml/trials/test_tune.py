"""Tuning: trials through the sigopt client on Dask workers, an exact budget, and a resumed experiment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster
from sigopt.exception import ApiException, ConnectionException

from ml.lake import Lake, MissingPartition, StalePartition
from ml.recipes.dialects.write import experiment_body
from ml.recipes.search import LONGEST_WINDOW, Search
from ml.trials.connection import Service
from ml.trials.experiment import experiment_of, metrics_of, tried
from ml.trials.process import TrialFailed
from ml.trials.trial import TrialResult, run_trial
from ml.trials.tune import Tuning, describe, tune
from ml.trials.window import NothingToTune, check_window
from ml.trials.worker import Worker
from ml.tuning.database import Database
from ml.tuning.driver import Driver
from ml.tuning.engine.front import front
from ml.tuning.service import TuningService
from tests.helpers.training_days import made_spec, small_recipe, write_days

LR = {
    "name": "lr",
    "key": "dense_optimizer.lr",
    "type": "double",
    "bounds": {"min": 1e-4, "max": 0.1},
    "transformation": "log",
}
TOP = {"name": "top", "key": "model.top", "type": "categorical", "categorical_values": ["8", "16-8"]}

RESULT = TrialResult(auc=0.7, log_loss=0.5, training_time=1.0, model_bytes=10, rows=5, by_day={})

LIVE = made_spec().partitions.model_copy(update={"end": None})


def search(**changes: Any) -> Search:
    metrics = [{"name": "auc"}, {"name": "training_time", "objective": "minimize", "strategy": "store"}]
    base = {"parameters": [LR, TOP], "metrics": metrics, "observation_budget": 4, "parallel_bandwidth": 2}
    return Search.model_validate({**base, "window_days": 3, "scored_days": 1, "judged_days": 0, **changes})


@pytest.fixture
def tuning(lake: Lake, tmp_path: Path) -> Tuning:
    days = write_days(lake, made_spec(), 4, 320)
    service = Service(str(tmp_path / "tuning" / "tuning.db"))
    return Tuning(made_spec(), "dlrm", days[3], small_recipe(), search(), lake, service, tmp_path / "trials")


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.mark.slow
def test_a_tuning_uses_its_budget_exactly_and_continues_where_it_stopped(
    tuning: Tuning, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "evergreen")
    seen: list[str] = []
    done = tune(tuning, client, lambda experiment, trial: seen.append(str(trial.assignments)))
    assert len(done.trials) == len(seen) == 4 and not any(trial.failed for trial in done.trials)
    assert len({str(trial.assignments) for trial in done.trials}) == 4, "no suggestion twice"
    assert search().defaults(small_recipe()) in [dict(trial.assignments) for trial in done.trials]
    assert done.best is not None
    assert done.trials[done.best].values["auc"] == max(trial.values["auc"] for trial in done.trials)
    again = tune(tuning, client, lambda *_: pytest.fail("nothing is left to try"))
    assert again == done
    told = [record.message for record in caplog.records if record.message.startswith("tuning made/dlrm")]
    days = f"on the days {tuning.window[0]} to {tuning.window[-1]}"
    assert told == [f"tuning made/dlrm {days}: 4 trials, 2 at a time{end}" for end in ("", "; 4 are done")]


def test_a_tuning_with_fewer_trials_at_a_time_finishes_the_open_ones_of_a_killed_run(
    tuning: Tuning, client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ml.trials.worker.in_process", lambda *_, **__: RESULT)
    trial, service = tuning.trial, tuning.service
    experiment = experiment_of(service.connect(), tuning.search, tuning.recipe, "dlrm 2026-01-04", "made", trial.data)
    begun = [service.connect(f"made-dlrm-{slot}").experiments(experiment).suggestions().create() for slot in range(2)]
    done = tune(replace(tuning, search=search(parallel_bandwidth=1)), client)
    assert done.experiment == experiment and len(done.trials) == 4
    assert [dict(one.assignments) for one in done.trials[:2]] == [dict(one.assignments) for one in reversed(begun)]
    assert "open suggestions" not in caplog.text


def test_a_tuning_warns_if_other_callers_hold_its_budget(
    tuning: Tuning, client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ml.trials.worker.in_process", lambda *_, **__: RESULT)
    name, connection = "dlrm 2026-01-04", tuning.service.connect()
    experiment = experiment_of(connection, tuning.search, tuning.recipe, name, "made", tuning.trial.data)
    other = connection.experiments(experiment).suggestions().create()
    assert len(tune(tuning, client).trials) == 3
    assert f"experiment {experiment} has 3 of 4 trials; open suggestions of other callers may use budget (1)" in caplog.text
    caplog.clear()
    connection.experiments(experiment).suggestions(other.id).delete()
    assert len(tune(tuning, client).trials) == 4
    assert "open suggestions" not in caplog.text


def test_days_of_the_window_are_before_the_day(tuning: Tuning) -> None:
    days = tuning.spec.days()
    assert tuning.window == tuple(days[:3]) and tuning.trial.scored == (days[2],)
    assert all(day < tuning.day for day in tuning.window)


def test_trials_do_not_see_the_days_on_which_the_best_one_is_judged(tuning: Tuning) -> None:
    days = tuning.spec.days()
    held_back = replace(tuning, search=search(judged_days=1))
    assert held_back.window == tuple(days[:3]) and held_back.judged == (days[2],)
    assert held_back.trial.days == tuple(days[:2]) and held_back.trial.scored == (days[1],)
    assert held_back.trial.data.keys() == set(days[:2])
    assert tuning.judged == ()


def test_a_live_log_can_be_tuned(tuning: Tuning) -> None:
    live = replace(tuning, spec=tuning.spec.model_copy(update={"partitions": LIVE}))
    assert live.window == tuning.window
    check_window(live.spec, live.window, live.trial.scored, live.lake)


@pytest.mark.parametrize("day", [0, 1, 2])
def test_a_window_that_is_not_full_is_refused(tuning: Tuning, client: Client, day: int) -> None:
    with pytest.raises(NothingToTune, match=rf"needs 3 days before it .*there are {day}"):
        tune(replace(tuning, day=tuning.spec.days()[day]), client)


def test_days_without_rows_are_not_in_the_window(lake: Lake, tuning: Tuning) -> None:
    days = write_days(lake, made_spec(), 5, [320, 320, 0, 320, 0])
    asked = replace(tuning, day=days[4])
    assert asked.window == (days[0], days[1], days[3]) and asked.trial.scored == (days[3],)
    result = run_trial(asked.trial)
    assert result.auc is not None and result.rows == 2 * 320
    with pytest.raises(NothingToTune, match=rf"there are 2 with rows from {days[0]} on; without rows: {days[2]}$"):
        _ = replace(tuning, day=days[3]).window
    long = replace(tuning, day="2026-03-01", spec=tuning.spec.model_copy(update={"partitions": LIVE}))
    with pytest.raises(MissingPartition, match="2026-02-28"):
        _ = long.window
    assert LONGEST_WINDOW >= 7, "a weekly tuning can look at a week"


def test_trials_on_other_data_are_refused(tuning: Tuning, monkeypatch: pytest.MonkeyPatch) -> None:
    one = worker(tuning)
    write_days(tuning.lake, made_spec(), 2, 100)  # materialised again, with other rows

    def trial(*_: Any, **__: Any) -> TrialResult:
        raise TrialFailed("its data has changed")

    monkeypatch.setattr("ml.trials.worker.in_process", trial)
    with pytest.raises(StalePartition, match=r"made/mds_datasets of 2026-01-01 has changed since the tuning started"):
        one.run()
    with pytest.raises(StalePartition):
        run_trial(one.trial)
    assert tried(tuning.service.connect(), one.experiment) == [], "the suggestion is not used up"
    write_days(tuning.lake, made_spec(), 2, 320)
    ended = one.run()
    assert ended is not None and ended.failed, "with the former data, what failed is a failed trial"


def test_a_failure_names_the_day_whose_rows_have_one_class(tuning: Tuning, monkeypatch: pytest.MonkeyPatch) -> None:
    by_day = {"2026-01-02": {"auc": 0.7, "log_loss": 0.5}, "2026-01-03": {"auc": None, "log_loss": 0.5}}
    result = replace(RESULT, auc=None, by_day=by_day)
    monkeypatch.setattr("ml.trials.worker.in_process", lambda *_, **__: result)
    ended = worker(tuning).run()
    assert ended is not None and ended.metadata["log"] == "auc undefined: only one class in the rows of 2026-01-03"


def test_what_cannot_be_tuned_is_refused_before_anything_is_trained(tuning: Tuning, client: Client, tmp_path: Path) -> None:
    with pytest.raises(NothingToTune, match="no parameter"):
        tune(replace(tuning, search=search(parameters=[])), client)
    with pytest.raises(ValueError, match=r"no key 'dense_optimizer\.rate'"):
        tune(replace(tuning, search=search(parameters=[LR | {"key": "dense_optimizer.rate"}])), client)
    with pytest.raises(MissingPartition):
        tune(replace(tuning, lake=Lake.at(tmp_path / "empty")), client)
    assert not (tmp_path / "trials").exists()


def test_the_same_tuning_finds_its_experiment_and_another_one_does_not(tuning: Tuning) -> None:
    connection = tuning.service.connect()

    def found(made_from: object, **changes: Any) -> str:
        return experiment_of(connection, search(**changes), tuning.recipe, "dlrm 2026-01-04", "made", made_from)

    first = found({"2026-01-01": "digest"})
    assert found({"2026-01-01": "digest"}) == first
    assert len({first, found({"2026-01-01": "other"}), found({"2026-01-01": "digest"}, experiment="mine")}) == 3
    assert found({"2026-01-01": "digest"}, observation_budget=9, parallel_bandwidth=3) == first, "the experiment continues"
    experiment = connection.experiments(first).fetch()
    assert (experiment.observation_budget, experiment.parallel_bandwidth) == (9, 3)


def test_further_values_are_queued_after_those_of_the_recipe_also_after_a_kill(tuning: Tuning) -> None:
    connection, further = tuning.service.connect(), [{"lr": 0.01, "top": "16-8"}, {"lr": 0.02, "top": "8"}]
    wanted = [search().defaults(tuning.recipe), *further]

    def queued(identity: str) -> list[dict[str, Any]]:
        pages = connection.experiments(identity).queued_suggestions().fetch(sort="id", ascending=True).iterate_pages()
        return [dict(one.assignments) for one in pages]

    first = experiment_of(connection, search(), tuning.recipe, "dlrm", "made", None, further)
    assert queued(first) == wanted
    last = list(connection.experiments(first).queued_suggestions().fetch(sort="id", ascending=True).iterate_pages())[-1]
    connection.experiments(first).queued_suggestions(last.id).delete()  # as if the process was killed before it queued the last
    assert experiment_of(connection, search(), tuning.recipe, "dlrm", "made", None, further) == first
    assert queued(first) == wanted
    taken = [dict(connection.experiments(first).suggestions().create().assignments) for _ in wanted]
    assert taken == wanted
    assert experiment_of(connection, search(), tuning.recipe, "dlrm", "made", None) == first, "they do not identify it"
    assert queued(first) == []


def test_a_kill_before_the_recipe_was_queued_does_not_lose_the_first_trial(tuning: Tuning) -> None:
    connection = tuning.service.connect()
    first = experiment_of(connection, search(), tuning.recipe, "dlrm", "made", None)
    connection.experiments(first).queued_suggestions().delete()  # as if the process was killed after the creation
    for _ in range(2):
        assert experiment_of(connection, search(), tuning.recipe, "dlrm", "made", None) == first
    (queued,) = connection.experiments(first).queued_suggestions().fetch().iterate_pages()
    assert dict(queued.assignments) == search().defaults(tuning.recipe)
    suggestion = connection.experiments(first).suggestions().create()
    assert dict(suggestion.assignments) == dict(queued.assignments)
    experiment_of(connection, search(), tuning.recipe, "dlrm", "made", None)
    assert connection.experiments(first).queued_suggestions().fetch().count == 0, "it is tried once"


def worker(tuning: Tuning, **changes: Any) -> Worker:
    connection = tuning.service.connect()
    chosen = search(**changes)
    experiment = experiment_of(connection, chosen, tuning.recipe, "dlrm", "made", None)
    return Worker("made-0", tuning.service, experiment, chosen, tuning.trial, tuning.folder)


def test_a_failed_trial_is_a_failed_observation_with_its_log(tuning: Tuning) -> None:
    broken = worker(tuning)
    ended = replace(broken, trial=replace(broken.trial, lake=Lake.at("/nowhere"), data={})).run()
    assert ended is not None and ended.failed
    (recorded,) = tried(tuning.service.connect(), broken.experiment)
    assert recorded.failed and not recorded.values
    assert "not in the lake" in recorded.metadata["log"]


@pytest.mark.parametrize("error", [ApiException({"message": "down"}, 503), ApiException({}, 404), ConnectionException("down")])
def test_a_lease_that_cannot_be_renewed_does_not_end_the_trial(
    tuning: Tuning, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    request, renewed = Driver.request, []

    def fail(self: Driver, method: str, path: Any, data: Any, headers: Any) -> Any:
        if method != "PUT":
            return request(self, method, path, data, headers)
        renewed.append(path)
        if len(renewed) == 1:
            raise error
        return request(self, method, path, data, headers)

    def trial(_trial: Any, _folder: Path, beat: Any, **_: Any) -> TrialResult:
        beat()
        beat()
        return RESULT

    monkeypatch.setattr(Driver, "request", fail)
    monkeypatch.setattr("ml.trials.worker.in_process", trial)
    monkeypatch.setattr("ml.trials.worker.SECONDS_BETWEEN_BEATS", 0.0)
    monkeypatch.setattr("ml.trials.worker.SECONDS_AFTER_A_LOST_BEAT", 0.0)
    ended = worker(tuning).run()
    assert ended is not None and ended.values["auc"] == 0.7 and len(renewed) == 2
    assert "the lease of suggestion 1 was not renewed" in caplog.text


def test_calls_are_repeated_while_the_service_is_unreachable(
    tuning: Tuning, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    request, failures = Driver.request, [ConnectionException("down"), ApiException({}, 503), ApiException({}, 429)]

    def fail(self: Driver, *call: Any) -> Any:
        if failures:
            raise failures.pop()
        return request(self, *call)

    one = worker(tuning)
    monkeypatch.setattr(Driver, "request", fail)
    monkeypatch.setattr("ml.trials.connection._LONGEST_WAIT", 0.01)
    assert tried(tuning.service.connect(), one.experiment) == []
    assert caplog.text.count("does not answer; trying again") == 3
    failures.append(ApiException({"message": "no such experiment"}, 404))
    with pytest.raises(ApiException, match="no such experiment"):
        tried(tuning.service.connect(), one.experiment)
    failures.append(ApiException({}, 503))
    with pytest.raises(ApiException):
        tried(tuning.service.connect(patience=0), one.experiment)


@pytest.mark.slow
def test_a_worker_that_died_before_it_reported_reports_the_result_again(tuning: Tuning) -> None:
    one = worker(tuning)
    suggestion = tuning.service.connect("made-0").experiments(one.experiment).suggestions().create()
    done = one._try(str(suggestion.id), dict(suggestion.assignments))
    ended = one.run()  # started again with its name
    assert ended is not None
    assert ended.metadata["evergreen_suggestion"] == str(suggestion.id)
    assert dict(ended.values) == dict(done.values), "also the training time, so it was not trained again"
    assert [dict(each.assignments) for each in tried(tuning.service.connect(), one.experiment)] == [dict(ended.assignments)]


def rivals(one: Worker, auc: float, steps: int) -> None:
    """Have four other trials with the same AUC at each checkpoint and at the end."""
    service = TuningService(Database(one.service.database))
    experiment = ["experiments", one.experiment]
    for number in range(4):
        assignments = {"lr": 0.01 + number / 1000, "top": "8"}
        suggestion = service.handle("POST", [*experiment, "suggestions"], {"assignments": assignments})
        assert suggestion is not None
        values = [{"name": "auc", "value": auc}]
        for step in range(1, steps + 1):
            path = [*experiment, "suggestions", suggestion["id"], "checkpoints"]
            service.handle("POST", path, {"step": step, "values": values})
        ended = {"suggestion": suggestion["id"], "values": [*values, {"name": "training_time", "value": 1.0}]}
        service.handle("POST", [*experiment, "observations"], ended)


@pytest.mark.slow
def test_a_trial_that_is_worse_than_the_others_is_stopped_early(tuning: Tuning) -> None:
    one = worker(tuning, early_stopping=True, observation_budget=6)
    rivals(one, auc=1.0, steps=7)
    ended = one.run()
    assert ended is not None and ended.stopped and ended.failed and not ended.values
    assert ended.metadata["log"] == "stopped early by median_rule at checkpoint 1 of 7" == describe(ended)
    assert tried(tuning.service.connect(), one.experiment)[-1] == ended
    assert not front(metrics_of(one.search), [ended.observation])
    other = worker(tuning, early_stopping=False, observation_budget=6, experiment="whole")
    rivals(other, auc=1.0, steps=7)
    whole = other.run()
    assert whole is not None and whole.values["auc"] < 1 and not whole.stopped


@pytest.mark.slow
def test_a_tuning_with_early_stopping_ends_with_a_best_trial(tuning: Tuning, client: Client) -> None:
    done = tune(replace(tuning, search=search(early_stopping=True, observation_budget=8, parallel_bandwidth=1)), client)
    assert len(done.trials) == 8 and done.best is not None and not done.trials[done.best].stopped
    assert all(trial.failed and not trial.values for trial in done.trials if trial.stopped)
    assert any(trial.stopped for trial in done.trials), "half of the trials are worse than the median"


@pytest.mark.slow
def test_a_checkpoint_that_cannot_be_reported_does_not_end_the_trial(
    tuning: Tuning, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    request = Driver.request

    def fail(self: Driver, method: str, path: Any, data: Any, headers: Any) -> Any:
        if "checkpoints" in path:
            raise ConnectionException("down")
        return request(self, method, path, data, headers)

    one = worker(tuning, early_stopping=True, observation_budget=5)
    rivals(one, auc=1.0, steps=7)
    monkeypatch.setattr(Driver, "request", fail)
    ended = one.run()
    assert ended is not None and not ended.failed
    assert "a checkpoint of suggestion 5 was not stored: " in caplog.text


def test_the_definition_has_what_the_service_needs() -> None:
    body = experiment_body(search(), "dlrm", "made")
    assert [parameter["name"] for parameter in body["parameters"]] == ["lr", "top"]
    assert all("key" not in parameter for parameter in body["parameters"])
    assert "linear_constraints" not in body
    assert body["metrics"][1] == {"name": "training_time", "objective": "minimize", "strategy": "store"}
