"""The best trials of earlier tunings, which a tuning tries again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ml.lake import DamagedManifest, Lake
from ml.recipes.search import Search
from ml.stages import tuning_results
from ml.trials.connection import Service
from ml.trials.earlier import TRIALS, earlier_trials
from ml.trials.experiment import Tried
from ml.trials.tune import Tuning
from tests.helpers.training_days import made_spec, small_recipe
from tests.ml.trials.test_tune import LR, TOP

SPEC = made_spec(partitions={"start": "2026-01-01", "end": "2026-01-31"})
METRICS = [{"name": "auc", "threshold": 0.6}, {"name": "training_time", "objective": "minimize"}]


def search(**changes: Any) -> Search:
    return Search.model_validate({"parameters": [LR, TOP], "metrics": METRICS, "observation_budget": 30, **changes})


@pytest.fixture
def tuning(lake: Lake, tmp_path: Path) -> Tuning:
    return Tuning(SPEC, "dlrm", "2026-01-20", small_recipe(), search(), lake, Service(""), tmp_path)


def trial(lr: float, auc: float, seconds: float, top: str = "16-8") -> Tried:
    return Tried({"lr": lr, "top": top}, {"auc": auc, "training_time": seconds})


def write(lake: Lake, day: str, *trials: Tried, of: Search | None = None, kind: str = "dlrm", **more: Any) -> None:
    with lake.write(tuning_results("dlrm"), SPEC.name, day) as folder:
        (folder / TRIALS).write_text(json.dumps([vars(each) for each in trials], default=dict))
        manifest = {"search": (of or search()).model_dump(mode="json"), "recipe": {"model": {"kind": kind}}, **more}
        lake.write_manifest(folder, manifest)


def rates(tuning: Tuning) -> list[tuple[str, Any]]:
    return [(one.day, one.assignments["lr"]) for one in earlier_trials(tuning)]


def test_without_earlier_tunings_there_are_none(tuning: Tuning) -> None:
    assert earlier_trials(tuning) == ()


def test_the_knee_of_the_front_comes_first_then_the_rest_of_the_front(tuning: Tuning) -> None:
    tried = [
        trial(0.001, 0.70, 9),
        trial(0.002, 0.80, 10),
        trial(0.003, 0.79, 2),
        trial(0.004, 0.65, 1),
        trial(0.005, 0.5, 0.1),
    ]
    write(tuning.lake, "2026-01-13", *tried, Tried({"lr": 0.006, "top": "8"}, {}, failed=True))
    assert rates(tuning) == [("2026-01-13", 0.003), ("2026-01-13", 0.002), ("2026-01-13", 0.004)]
    assert rates(replace(tuning, search=search(observation_budget=12))) == rates(tuning)[:2], "a sixth of the budget"
    assert rates(replace(tuning, search=search(observation_budget=5))) == []


def test_newer_tunings_come_first_and_the_same_values_once(tuning: Tuning) -> None:
    write(tuning.lake, "2026-01-06", *(trial(rate, 0.7 + rate, 1 + rate) for rate in (0.001, 0.002, 0.003, 0.004)))
    write(tuning.lake, "2026-01-13", *(trial(rate, 0.7 + rate, 1 + rate) for rate in (0.003, 0.004, 0.005, 0.006)))
    found = rates(tuning)
    assert [day for day, _ in found] == ["2026-01-13"] * 3 + ["2026-01-06"] * 2
    assert len({rate for _, rate in found}) == 5


def test_older_tunings_are_not_read_once_there_are_enough_trials(tuning: Tuning) -> None:
    write(tuning.lake, "2026-01-06", trial(0.1, 0.9, 1))
    (tuning.lake.partition(tuning_results("dlrm"), SPEC.name, "2026-01-06") / "manifest.json").write_text("damaged")
    few = replace(tuning, search=search(observation_budget=12))
    with pytest.raises(DamagedManifest):
        earlier_trials(few)
    assert rates(replace(tuning, search=search(observation_budget=5))) == [], "no trial may be tried again"
    write(tuning.lake, "2026-01-13", trial(0.003, 0.8, 2), trial(0.002, 0.7, 1))
    assert rates(few) == [("2026-01-13", 0.003), ("2026-01-13", 0.002)]


def test_only_tunings_of_days_before_are_used(tuning: Tuning) -> None:
    for day in ("2026-01-01", "2026-01-20", "2026-01-21"):  # the first day of the log, the day itself, a later one
        write(tuning.lake, day, trial(0.003, 0.8, 1))
    assert rates(tuning) == []
    write(tuning.lake, "2026-01-19", trial(0.003, 0.8, 1))
    assert rates(tuning) == [("2026-01-19", 0.003)]
    assert rates(replace(tuning, spec=SPEC.starting_at("2026-01-19"))) == [], "a fresh start uses nothing from before"


def test_values_are_carried_over_by_recipe_key_and_stay_within_the_new_search(tuning: Tuning) -> None:
    renamed = [LR | {"name": "rate", "bounds": {"min": 1e-4, "max": 0.5}}]
    write(
        tuning.lake,
        "2026-01-13",
        Tried({"rate": 0.3}, {"auc": 0.9, "training_time": 1}),
        Tried({"rate": 0.02}, {"auc": 0.8, "training_time": 1}),
        of=search(parameters=renamed),
    )
    [found] = earlier_trials(tuning)
    assert found.assignments == {"lr": 0.02, "top": tuning.search.defaults(tuning.recipe)["top"]}


def test_linear_constraints_and_the_recipe_exclude_values(tuning: Tuning) -> None:
    keys = {"warm": "schedule.warm_up", "decay": "schedule.decay_start"}
    both = [{"name": name, "key": key, "type": "double", "bounds": {"min": 0, "max": 1}} for name, key in keys.items()]
    tried = Tried({"warm": 0.8, "decay": 0.5}, {"auc": 0.8, "training_time": 1})  # warm-up ends after the decay has begun
    write(tuning.lake, "2026-01-13", tried, of=search(parameters=both))
    assert rates(replace(tuning, search=search(parameters=both))) == []
    terms = [{"name": name, "weight": 1} for name in keys]
    limited = search(parameters=both, linear_constraints=[{"type": "less_than", "threshold": 0.7, "terms": terms}])
    write(tuning.lake, "2026-01-13", Tried({"warm": 0.3, "decay": 0.5}, {"auc": 0.8, "training_time": 1}), of=limited)
    assert len(earlier_trials(replace(tuning, search=search(parameters=both)))) == 1
    assert earlier_trials(replace(tuning, search=limited)) == ()


@pytest.mark.parametrize(
    "other",
    [
        {"of": search(metrics=METRICS[:1])},
        {"of": search(metrics=[{"name": "log_loss", "objective": "minimize"}, METRICS[1]])},
        {"kind": "deepfm"},
    ],
    ids=["fewer metrics", "another metric", "another kind of model"],
)
def test_a_tuning_of_other_metrics_or_another_kind_of_model_is_not_used(tuning: Tuning, other: dict[str, Any]) -> None:
    write(
        tuning.lake,
        "2026-01-13",
        replace(trial(0.003, 0.8, 1), values={"auc": 0.8, "log_loss": 0.4, "training_time": 1}),
        **other,
    )
    assert earlier_trials(tuning) == ()


def test_the_recipe_itself_is_not_tried_twice(tuning: Tuning) -> None:
    own = tuning.search.defaults(tuning.recipe)
    write(tuning.lake, "2026-01-13", Tried(own, {"auc": 0.8, "training_time": 1}))
    assert earlier_trials(tuning) == ()


def test_trials_that_were_chosen_on_a_judged_day_are_left_out(tuning: Tuning) -> None:
    vars(tuning)["window"] = ("2026-01-16", "2026-01-17", "2026-01-18", "2026-01-19")
    assert tuning.judged[0] == "2026-01-19", "one day is judged by default"
    write(tuning.lake, "2026-01-18", trial(0.1, 0.7, 5.0), scored=["2026-01-16", "2026-01-18"])
    write(tuning.lake, "2026-01-19", trial(0.2, 0.7, 5.0), scored=["2026-01-19"])
    assert rates(tuning) == [("2026-01-18", 0.1)]
