"""A tuning that serves a day: what is adopted trains the day, also with another structure, and a rerun changes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client, LocalCluster
from filelock import FileLock

from ml.advisor.day import advise_day
from ml.catalog.spec import DatasetSpec
from ml.evaluation.compare import Estimate
from ml.lake import BusyPartition, Lake, StalePartition
from ml.recipes.recipe import Recipe
from ml.recipes.search import Search
from ml.recipes.stored import recipe_in_use, start_of
from ml.stages import advisor_recipes, tuned_models, tuning_results
from ml.training.day import DayOptions, train_day
from ml.trials.connection import Service
from ml.trials.day import TunedDay, tune_day
from ml.trials.earlier import TRIALS
from ml.trials.trial import TrialResult
from ml.trials.tune import Tuning
from ml.trials.verdict import Saving, Verdict, judge
from tests.helpers.training_days import made_spec, small_recipe, write_days

SPEC = made_spec()
RATES = {"name": "lr", "key": "table_optimizer.lr", "type": "double", "grid": [0.0001, 0.05]}


@pytest.fixture
def days(lake: Lake) -> list[str]:
    return write_days(lake, SPEC, 5, 640)


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials run in this process, which saves the start of two dozen; `test_process.py` tests the others."""
    from ml.trials import day as day_module
    from ml.trials import worker
    from ml.trials.trial import run_trial

    def run(trial: Any, folder: Path, **options: Any) -> TrialResult:
        return run_trial(trial)

    monkeypatch.setattr(worker, "in_process", run)
    monkeypatch.setattr(day_module, "in_process", run)


def untrained(**changes: Any) -> Recipe:
    """A recipe that hardly learns, so that a tuned one is significantly better."""
    return small_recipe(table_optimizer={"lr": 0.0001}, dense_optimizer={"lr": 1e-6}, **changes)


def run(lake: Lake, tmp_path: Path, client: Client, day: str, recipe: Recipe, *parameters: dict[str, Any]) -> TunedDay:
    budget = 2 ** len(parameters)
    search = Search.model_validate({"parameters": parameters, "observation_budget": budget, "window_days": 3, "scored_days": 1})
    service = Service(str(tmp_path / "tuning.db"))
    return tune_day(Tuning(SPEC, "dlrm", day, recipe, search, lake, service, tmp_path / "trials"), recipe, client)


def files(lake: Lake, stage: str, day: str) -> dict[str, bytes]:
    folder = lake.require(stage, SPEC.name, day)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def train_with(lake: Lake, days: list[str], recipe: Recipe) -> DatasetSpec:
    """Declare the recipe and train the days with it."""
    spec = DatasetSpec.model_validate(SPEC.model_dump(mode="json") | {"recipe": {"overrides": recipe.model_dump(mode="json")}})
    for day in days:
        advise_day(spec, "dlrm", day, lake)
        train_day(spec, day, lake, options=DayOptions(progress=False))
    return spec


def test_a_better_recipe_is_adopted_and_trains_the_day_and_those_after_it(
    lake: Lake, tmp_path: Path, client: Client, days: list[str]
) -> None:
    recipe = untrained()
    spec = train_with(lake, days[:3], recipe)
    done = run(lake, tmp_path, client, days[3], recipe, RATES)
    assert done.adopted and not done.restarts and done.verdict is not None
    assert done.recipe.table_optimizer.lr == 0.05
    first = files(lake, tuning_results("dlrm"), days[3])
    run(lake, tmp_path, client, days[3], recipe, RATES)
    assert files(lake, tuning_results("dlrm"), days[3]) == first
    assert len(json.loads(first[TRIALS])) == 2
    for day in days[3:]:
        advised = advise_day(spec, "dlrm", day, lake)
        assert advised.recipe.table_optimizer.lr == 0.05
        assert advised.origins["table_optimizer.lr"].startswith(f"tuned for {days[3]}, experiment ")
        done_day = train_day(spec, day, lake, options=DayOptions(progress=False))
        assert done_day.recipe.table_optimizer.lr == 0.05
        assert start_of(lake, spec, "dlrm", day) == (tuned_models("dlrm"), spec.previous_day(day))
    assert not advise_day(spec, "dlrm", days[2], lake).origins["table_optimizer.lr"].startswith("tuned")


def test_a_rerun_keeps_the_earlier_trials_that_were_tried(
    lake: Lake, tmp_path: Path, client: Client, days: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ml.trials import earlier

    monkeypatch.setattr(earlier, "SHARE", 2)  # a budget of two trials allows one
    recipe = untrained()
    rates = RATES | {"grid": [0.0001, 0.02, 0.05]}

    def tuned_before(rate: float) -> None:
        search = Search.model_validate({"parameters": [rates]}).model_dump(mode="json")
        with lake.write(tuning_results("dlrm"), SPEC.name, days[1]) as folder:
            trial = {"assignments": {"lr": rate}, "values": {"auc": 0.7, "training_time": 1}}
            (folder / TRIALS).write_text(json.dumps([trial]))
            lake.write_manifest(folder, {"search": search, "recipe": {"model": {"kind": "dlrm"}}, "scored": [days[0]]})

    tuned_before(0.02)
    run(lake, tmp_path, client, days[3], recipe, rates)
    manifest = lake.manifest(tuning_results("dlrm"), SPEC.name, days[3])
    assert manifest["earlier"] == [{"day": days[1], "assignments": {"lr": 0.02}}]
    tuned_before(0.05)
    run(lake, tmp_path, client, days[3], recipe, rates)
    assert lake.manifest(tuning_results("dlrm"), SPEC.name, days[3]) == manifest


def test_a_better_structure_starts_from_the_state_of_the_candidate(
    lake: Lake, tmp_path: Path, client: Client, days: list[str]
) -> None:
    recipe = untrained()
    spec = train_with(lake, days[:3], recipe)
    tuned = small_recipe(model={"embedding_dim": 8, "bottom": [8], "top": [8]})
    search = Search.model_validate({"parameters": [RATES], "observation_budget": 2, "window_days": 3, "scored_days": 1})
    tuning = Tuning(spec, "dlrm", days[3], tuned, search, lake, Service(str(tmp_path / "db")), tmp_path / "trials")
    done = tune_day(tuning, recipe, client)
    assert done.adopted and done.restarts and done.verdict is not None
    assert done.verdict.against == "the daily models"
    for day, start in ((days[3], tuning_results("dlrm")), (days[4], tuned_models("dlrm"))):
        assert advise_day(spec, "dlrm", day, lake).recipe.model.embedding_dim == 8
        found = start_of(lake, spec, "dlrm", day)
        assert found is not None and found[0] == start
        done_day = train_day(spec, day, lake, options=DayOptions(progress=False))
        assert done_day.recipe.model.embedding_dim == 8
        assert done_day.base == found == (start, days[3])
        assert lake.manifest(tuned_models("dlrm"), SPEC.name, day)["base"] == f"{start}/{days[3]}"
        assert done_day.rows_so_far == (4 if day == days[3] else 5) * 640, "each day was trained on once"
    stage = tuning_results("dlrm")
    lake.write_manifest(lake.partition(stage, SPEC.name, days[3]), {"adopted": False, "restarts": False})
    with pytest.raises(
        StalePartition, match=rf"advisor_recipes/dlrm of {days[3]} was made from other contents of made/{stage}"
    ):
        train_day(spec, days[3], lake, options=DayOptions(progress=False))


def test_what_is_no_better_is_not_adopted(lake: Lake, tmp_path: Path, client: Client, days: list[str]) -> None:
    recipe = small_recipe()
    done = run(lake, tmp_path, client, days[3], recipe, RATES)
    assert not done.adopted and not done.restarts
    advised = advise_day(SPEC, "dlrm", days[3], lake)
    assert lake.manifest(advisor_recipes("dlrm"), SPEC.name, days[3])["tuned"] is None
    assert advised.recipe == recipe_in_use(lake, SPEC, "dlrm", days[3])


def test_only_what_the_tuning_changed_is_tuned(lake: Lake, tmp_path: Path, client: Client, days: list[str]) -> None:
    """The recipe in use has neither the edit nor the advice that the tuned recipe begins with."""
    advice = {"days": [], "rows": None, "applied": [], "values": [], "kept": [], "suggestions": []}
    recipe = untrained(seed=3, label_smoothing=0.01)
    search = Search.model_validate({"parameters": [RATES], "observation_budget": 2, "window_days": 3, "scored_days": 1})
    service = Service(str(tmp_path / "tuning.db"))
    tuning = Tuning(SPEC, "dlrm", days[3], recipe, search, lake, service, tmp_path / "trials")
    done = tune_day(tuning, untrained(), client, advice=advice)
    assert done.adopted and (done.recipe.seed, done.recipe.table_optimizer.lr) == (3, 0.05)
    manifest = lake.manifest(tuning_results("dlrm"), SPEC.name, days[3])
    assert manifest["changed"] == {"table_optimizer.lr": 0.05} and manifest["advice"] == advice


def test_two_tunings_of_a_day_at_once_are_refused(lake: Lake, tmp_path: Path, client: Client, days: list[str]) -> None:
    (tmp_path / "trials").mkdir()
    with FileLock(tmp_path / "trials" / f"{days[3]}.lock"), pytest.raises(BusyPartition, match="tuned by another run"):
        run(lake, tmp_path, client, days[3], small_recipe(), RATES)


def test_the_verdict_uses_only_days_that_no_trial_has_seen(lake: Lake, tmp_path: Path, client: Client, days: list[str]) -> None:
    done = run(lake, tmp_path, client, days[3], untrained(), RATES)
    manifest = lake.manifest(tuning_results("dlrm"), SPEC.name, days[3])
    assert (manifest["window"], manifest["scored"], manifest["judged"]) == (days[:3], [days[1]], [days[2]])
    assert done.verdict is not None and done.verdict.days == (days[2],) and manifest["verdict"]["days"] == [days[2]]
    search = Search.model_validate({"parameters": [RATES], "window_days": 3, "scored_days": 1, "judged_days": 0})
    service = Service(str(tmp_path / "tuning.db"))
    with pytest.raises(ValueError, match="judged_days: expected at least 1 day"):
        tune_day(Tuning(SPEC, "dlrm", days[3], untrained(), search, lake, service, tmp_path / "t"), untrained(), client)


def test_a_recipe_of_equal_quality_is_adopted_if_it_is_clearly_smaller(
    lake: Lake, tmp_path: Path, client: Client, days: list[str]
) -> None:
    """Labels do not depend on feature `b`, so that the size of its table does not matter."""
    rows = {"name": "rows", "key": "tables.features.b.rows", "type": "int", "grid": [64, 4096]}
    present = small_recipe(tables={"features": {"b": {"kind": "hashed", "rows": 4096}}})
    metrics = [{"name": "auc"}, {"name": "model_bytes", "objective": "minimize", "threshold": 5e4}]

    def tuned(margin: float, recipe: Recipe = present) -> TunedDay:
        search = {"parameters": [rows], "observation_budget": 2, "window_days": 3, "scored_days": 1, "metrics": metrics}
        chosen = Search.model_validate({**search, "quality_margin": margin})
        service = Service(str(tmp_path / "tuning.db"))
        return tune_day(Tuning(SPEC, "dlrm", days[3], recipe, chosen, lake, service, tmp_path / "trials"), present, client)

    done = tuned(0.5)
    assert done.verdict is not None and done.recipe != present, "only the smaller model meets the threshold"
    assert not done.verdict.better and done.adopted
    (saving,) = done.verdict.savings
    assert saving.metric == "model_bytes" and saving.candidate < 0.8 * saving.present
    assert "not worse by more than 0.5, model_bytes is" in done.verdict.reason
    assert lake.manifest(tuning_results("dlrm"), SPEC.name, days[3])["verdict"]["savings"][0]["share"] == saving.share
    strict = tuned(0.0)
    assert not strict.adopted and strict.verdict is not None and strict.verdict.savings == ()
    other = tuned(0.5, present.model_copy(update={"seed": 5}))  # none of the trials has the recipe in use
    assert other.adopted and other.verdict is not None and other.verdict.savings[0].present == saving.present


def test_savings_decide_only_within_the_margin() -> None:
    def verdict(gain: float, *values: tuple[float, float], error: float = 0.0001) -> Verdict:
        savings = tuple(Saving(f"m{n}", *pair) for n, pair in enumerate(values))
        return Verdict("auc", "x", {"auc": Estimate(gain, error, 1000)}, ("d",), 0.001, savings)

    assert verdict(0.001).adopted and not verdict(-0.0005).adopted
    assert verdict(-0.0005, (70.0, 100.0)).adopted
    assert "not worse by more than 0.001, m0 is 30% less" in verdict(-0.0005, (70.0, 100.0)).reason
    assert not verdict(-0.0005, (90.0, 100.0)).adopted, "10% is not clear"
    assert not verdict(-0.0005, (70.0, 100.0), (120.0, 100.0)).adopted, "the other metric is worse"
    assert not verdict(-0.0005, (70.0, 100.0), error=0.001).adopted, "it can be worse by more than the margin"
    assert "possibly worse by more than 0.001" in verdict(-0.0005, (70.0, 100.0), error=0.001).reason
    undefined = Verdict("auc", "x", {}, ("d",), 0.5, (Saving("m", 1.0, 9.0),))
    assert not undefined.adopted and undefined.reason == "auc is undefined on d"


def test_the_verdict_needs_significance_and_the_same_rows() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random(4000) < 0.3).astype(np.float32)
    good = np.clip(0.3 + 0.3 * (labels - 0.3) + 0.1 * rng.standard_normal(4000), 0.01, 0.99).astype(np.float32)
    alike = np.clip(good + 1e-4 * rng.standard_normal(4000), 0.01, 0.99).astype(np.float32)
    poor = rng.random(4000).astype(np.float32)
    verdict = judge({"d": (labels, good)}, {"d": (labels, poor)}, "auc", "x")
    assert verdict.better and verdict.gains["auc"].value > 0 < verdict.gains["log_loss"].value
    assert not judge({"d": (labels, good)}, {"d": (labels, alike)}, "auc", "x").better
    assert not judge({"d": (labels, poor)}, {"d": (labels, good)}, "log_loss", "x").better
    with pytest.raises(ValueError, match="rows of the two models differ"):
        judge({"d": (labels, good)}, {"d": (1 - labels, good)}, "auc", "x")
    with pytest.raises(ValueError, match="days differ"):
        judge({"d": (labels, good)}, {"e": (labels, good)}, "auc", "x")
