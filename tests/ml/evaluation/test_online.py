"""A report shows the day by slice if the day was trained online, and is made again if that happens later."""

from __future__ import annotations

import json

import pytest

from assets.progress import reports_online_training
from ml.catalog.spec import DatasetSpec, ModelChoice
from ml.evaluation import plots
from ml.evaluation.evaluate import EvaluatedDay, evaluate_day
from ml.evaluation.models import models_before
from ml.evaluation.online import day_by_slice
from ml.evaluation.report import duration
from ml.export.day import export_day, load_export
from ml.lake import Lake
from ml.online.day import OnlineOptions, online_day
from ml.stages import EVALUATION_REPORTS, served_models
from ml.training.day import DayOptions, train_day
from tests.helpers.training_days import made_spec, small_recipe, write_days

SPEC = made_spec()
ONLINE = SPEC.model_copy(update={"models": {"dlrm": ModelChoice.model_validate({"serve": "online"})}})
RECIPE = small_recipe(online={"slices": 4})


def report(lake: Lake, day: str, spec: DatasetSpec = SPEC) -> EvaluatedDay:
    before = spec.previous_day(day)
    models = models_before(spec, day, lake)
    inputs = [(served_models(spec, name), before) for name in models] if before else []
    return evaluate_day(spec, day, lake, models, model_inputs=inputs)


def train_online(lake: Lake, day: str) -> None:
    online_day(SPEC, day, lake, options=OnlineOptions(RECIPE, progress=False))


@pytest.fixture
def days(lake: Lake) -> list[str]:
    written = write_days(lake, SPEC, days=3, rows=400)
    for day in written[:2]:
        train_day(SPEC, day, lake, options=DayOptions(recipe=RECIPE, progress=False))
    return written


def test_a_report_without_online_training_has_no_section(lake: Lake, days: list[str]) -> None:
    done = report(lake, days[1])
    assert done.metrics["online"] == {} and "trained within the day" not in done.report.read_text()


def test_a_report_shows_the_day_by_slice(lake: Lake, days: list[str]) -> None:
    train_online(lake, days[1])
    done = report(lake, days[1])
    of = done.metrics["online"]["dlrm"]
    assert len(of["slices"]) == 4 and set(of["scores"]) == {"online", "stale", "retrained"}
    assert of == day_by_slice(lake, SPEC, "dlrm", days[1])
    html = done.report.read_text()
    assert "dlrm trained within the day" in html and f"trained until {days[0]}" in html
    assert "online_dlrm" in done.plots and "Rows sent by table" in html


def test_a_report_says_that_joined_examples_are_scored_late(lake: Lake, days: list[str]) -> None:
    train_online(lake, days[1])
    assert "The model that was served at the impression" not in report(lake, days[1]).report.read_text()
    path = lake.partition("online_updates/dlrm", SPEC.name, days[1]) / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"scored_after_seconds": 7800.0}))
    text = report(lake, days[1]).report.read_text()
    assert "arrive 2.2 h after their impressions" in text and "The model that was served at the impression" in text


def test_a_report_is_outdated_once_its_day_is_trained_online(lake: Lake, days: list[str]) -> None:
    report(lake, days[1])
    assert reports_online_training(lake, SPEC, days[1])
    train_online(lake, days[1])
    assert not reports_online_training(lake, SPEC, days[1])
    report(lake, days[1])
    assert reports_online_training(lake, SPEC, days[1])
    assert not lake.is_outdated(EVALUATION_REPORTS, SPEC.name, days[1])
    train_day(SPEC, days[0], lake, options=DayOptions(recipe=small_recipe(seed=1), progress=False))
    train_online(lake, days[1])
    assert lake.is_outdated(EVALUATION_REPORTS, SPEC.name, days[1])


def test_a_served_online_state_is_reported_and_exported(lake: Lake, days: list[str]) -> None:
    train_online(lake, days[1])
    export_day(ONLINE, days[1], lake)
    stage = served_models(ONLINE, "dlrm")
    assert stage == "online_updates/dlrm"
    assert lake.manifest("exported_models/dlrm", SPEC.name, days[1])["snapshot"] == lake.digest(stage, SPEC.name, days[1])
    assert load_export(lake, ONLINE, days[1]).steps.keys()
    done = report(lake, days[2], ONLINE)
    assert done.metrics["models"]["dlrm"]["facts"]["snapshot_day"] == days[1]
    assert f"{stage}/{days[1]}" in lake.manifest(EVALUATION_REPORTS, SPEC.name, days[2])["lineage"]
    assert done.metrics["models"]["dlrm"]["auc"] != report(lake, days[2]).metrics["models"]["dlrm"]["auc"]


def test_undefined_slices_are_not_drawn() -> None:
    empty = [{"slice": n, "online_auc": None, "stale_auc": None, "retrained_auc": None} for n in range(3)]
    assert plots.online_day(empty).startswith(b"\x89PNG")


def test_durations_have_a_unit() -> None:
    assert [duration(s) for s in (None, 0.25, 59, 90, 5400, 200_000)] == ["–", "0.25 s", "59 s", "1.5 min", "1.5 h", "2.3 d"]
