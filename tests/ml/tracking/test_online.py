"""With `serve: online`, the registry's version of a day is the state that was trained online."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from ml.catalog.spec import ModelChoice
from ml.lake import Lake
from ml.online.day import OnlineOptions, online_day
from ml.tracking.online import ONLINE, log_online_day
from ml.tracking.registry import CHAMPION, DAY, DIGEST, point, versions
from ml.tracking.run import Tracker
from ml.training.day import DayOptions, train_day
from tests.helpers.training_days import made_spec, small_recipe, write_days

SPEC = made_spec()
SERVED = SPEC.model_copy(update={"models": {"dlrm": ModelChoice.model_validate({"serve": "online"})}})
RECIPE = small_recipe(online={"slices": 2})


@pytest.fixture
def tracker(mlflow_home: Path) -> Tracker:
    return Tracker(mlflow_home, example_rows=0)


def train(lake: Lake, day: str, tracker: Tracker) -> None:
    """Train a day, and log it as the assets do."""
    train_day(SERVED, day, lake, options=DayOptions(recipe=RECIPE, tracker=tracker, progress=False))


def train_online(lake: Lake, day: str, tracker: Tracker) -> None:
    done = online_day(SERVED, day, lake, options=OnlineOptions(RECIPE, progress=False))
    log_online_day(tracker, lake, SERVED, "dlrm", day, done.metrics)


def test_the_online_state_is_the_version_of_the_day(lake: Lake, tracker: Tracker) -> None:
    days = write_days(lake, SPEC, days=2, rows=100)
    for day in days:
        train(lake, day, tracker)
    assert versions(tracker.client(), SPEC.name, "dlrm", days[1]) == [], "the daily state is logged, but not registered"
    train_online(lake, days[1], tracker)
    train(lake, days[1], tracker)
    (found,) = versions(tracker.client(), SPEC.name, "dlrm", days[1])
    assert found.tags[DIGEST] == lake.digest("online_updates/dlrm", SPEC.name, days[1])
    pointed = point(tracker.client(), SPEC.name, {CHAMPION: ("dlrm", days[1])})[CHAMPION]
    assert pointed is not None and pointed.version == found.version


def test_a_day_that_is_trained_again_replaces_its_run(lake: Lake, tracker: Tracker) -> None:
    days = write_days(lake, SPEC, days=2, rows=100)
    train(lake, days[0], tracker)
    for _ in range(2):
        train_online(lake, days[1], tracker)
    client = tracker.client()
    where = f"tags.`{ONLINE}` = 'dlrm' and tags.`{DAY}` = '{days[1]}'"
    (run,) = client.search_runs([tracker.experiment(client, SPEC)], where)
    assert run.info.status == "FINISHED" and run.data.metrics["slices"] == 2.0 and "auc_online" in run.data.metrics
    assert len(versions(client, SPEC.name, "dlrm", days[1])) == 1
    assert run.outputs is not None and len(run.outputs.model_outputs) == 1


def test_an_unreachable_store_costs_no_trained_day(
    lake: Lake, tracker: Tracker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    days = write_days(lake, SPEC, days=1, rows=50)

    def fail(self: Tracker) -> None:
        raise OSError("no such server")

    monkeypatch.setattr(Tracker, "client", fail)
    with caplog.at_level(logging.WARNING, "evergreen"):
        train_online(lake, days[0], tracker)
    assert lake.has("online_updates/dlrm", SPEC.name, days[0]) and "no such server" in caplog.text
