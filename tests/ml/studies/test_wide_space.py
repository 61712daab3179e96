"""The original advisor's search space: its values fit the reference and a recipe, and its defaults are within it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ml.lake import Lake
from ml.recipes.assignments import with_assignments
from ml.recipes.recipe import load_recipe
from ml.recipes.search import check_search
from ml.studies.original_dlrm import NumberedDays, Settings
from ml.studies.wide_space import DEFAULTS, SPACE, Observed, best_settings, settings_of, tune_original, wide_recipe, wide_search
from ml.trials.connection import Service
from tests.helpers.training_days import made_spec, write_days


def test_defaults_are_within_the_space() -> None:
    assert list(DEFAULTS) == [parameter["name"] for parameter in SPACE]
    for parameter in SPACE:
        value = DEFAULTS[parameter["name"]]
        assert value in parameter["grid"] if "grid" in parameter else True
        assert "grid" in parameter or parameter["bounds"]["min"] <= value <= parameter["bounds"]["max"]


def test_settings_follow_the_assignments() -> None:
    found = settings_of(DEFAULTS | {"lamb_lr": 32, "mlp_top_size": 3}, Settings())
    assert (found.dim, found.bottom, found.top, found.table_lr, found.dense_lr) == (128, (128,), (512, 256), 0.1, 0.2)
    assert 0 < found.warm_up < found.decay_start < 1 and found.batch_size == Settings().batch_size


def test_the_space_fits_recipes() -> None:
    recipe = wide_recipe(load_recipe("dlrm"))
    search = wide_search(recipe, observation_budget=5)
    check_search(search, recipe)
    assert search.observation_budget == 5 and len(search.defaults(recipe)) == len(search.parameters) == len(SPACE) - 1
    chosen = with_assignments(recipe, search.parameters, {"mlp_top_size": "1024-1024-512-256", "arch_sparse_feature_size": 16})
    assert chosen.model.model_dump()["top"] == (1024, 1024, 512, 256) and chosen.model.model_dump()["embedding_dim"] == 16


def test_the_best_trial_is_chosen_and_failed_ones_are_not() -> None:
    trials = [Observed(None, 0.0, DEFAULTS), Observed(0.6, 1.0, DEFAULTS), Observed(0.7, 1.0, DEFAULTS | {"mlp_top_size": 0})]
    found = best_settings(trials, Settings())
    assert found and found.top == (1024, 1024, 512, 256)
    assert best_settings(trials[:1], Settings()) is None


def test_trials_go_through_the_service_and_the_defaults_come_first(lake: Lake, tmp_path: Path) -> None:
    days = write_days(lake, made_spec(), 2, 96)
    data = NumberedDays.read(made_spec(), days, lake, ["a", "b", "tags"])
    service, seen = Service(str(tmp_path / "tuning.db")), list[Observed]()
    trials = tune_original(service, data, days, Settings(batch_size=32), 2, seen.append)
    assert len(trials) == 2 and list(trials) == seen and trials[0].assignments == DEFAULTS != trials[1].assignments
    (experiment,) = service.connect().experiments().fetch().iterate_pages()
    observations = service.connect().experiments(experiment.id).observations().fetch().iterate_pages()
    stored = {value.value for observation in observations for value in observation.values if value.name == "auc"}
    assert stored == {trial.auc for trial in trials}


def test_a_trial_that_diverges_is_a_failed_observation(lake: Lake, tmp_path: Path) -> None:
    days = write_days(lake, made_spec(), 2, 96)
    data = NumberedDays.read(made_spec(), days, lake, ["a", "b", "tags"])
    service = Service(str(tmp_path / "tuning.db"))
    (trial,) = tune_original(service, data, days, Settings(batch_size=32, table_lr=1e20, dense_lr=1e20), 1)
    assert (trial.auc, trial.seconds) == (None, 0.0)
    (experiment,) = service.connect().experiments().fetch().iterate_pages()
    (observation,) = service.connect().experiments(experiment.id).observations().fetch().iterate_pages()
    assert observation.failed


@pytest.mark.parametrize("case", range(8))
def test_every_index_of_layers_gives_a_model(case: int) -> None:
    found = settings_of(DEFAULTS | {"mlp_top_size": case, "mlp_bot_size": case % 4}, Settings())
    assert found.top and found.bottom
