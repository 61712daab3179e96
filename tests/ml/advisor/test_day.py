"""The recipe of a day: written before it is trained, reproduced by a rerun, and true to the structure of the day before."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import yaml

from ml.advisor import day as module
from ml.advisor.day import RECIPE, advise_day
from ml.advisor.hardware import Hardware, detect
from ml.advisor.plan import plan_tuning
from ml.advisor.search_section import by_name
from ml.catalog.load import CatalogError, load_dataset
from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.recipes.edits import flat
from ml.recipes.recipe import Recipe, recipe_of
from ml.recipes.search import Search
from ml.recipes.sections import from_sections
from ml.recipes.stored import recipe_in_use
from ml.stages import advisor_recipes, tuned_models, tuning_results
from tests.helpers.paths import ROOT

SIGOPT = """
sigopt:
  observation_budget: 60
  metrics: [{name: auc, threshold: 0.7}, {name: training_time, objective: minimize, threshold: 60}]
  parameters: [{name: dropout, bounds: {min: 0.0, max: 0.2}}, {name: decay_to, remove: true}]
"""
DAYS = ["2014-01-01", "2014-01-02", "2014-01-03"]
STAGE = advisor_recipes("dlrm")


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    (tmp_path / "criteo.yaml").write_text((ROOT / "catalog" / "criteo.yaml").read_text())
    (tmp_path / "recipes" / "criteo").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def spec(catalog: Path) -> DatasetSpec:
    return load_dataset(catalog / "criteo.yaml")


def edit(catalog: Path, text: str) -> DatasetSpec:
    (catalog / "recipes" / "criteo" / "dlrm.yaml").write_text(text)
    return load_dataset(catalog / "criteo.yaml")


def files(lake: Lake, day: str) -> dict[str, bytes]:
    folder = lake.require(STAGE, "criteo", day)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_day_without_advice_has_the_declared_recipe(lake: Lake, spec: DatasetSpec) -> None:
    spec = spec.model_copy(update={"recipe": spec.recipe.model_copy(update={"advice": "explain"})})
    done = advise_day(spec, "dlrm", DAYS[0], lake)
    assert done.recipe == recipe_of(spec, "dlrm") == recipe_in_use(lake, spec, "dlrm", DAYS[0])
    assert done.origins["batch_size"] == "recipe dlrm"
    text = yaml.safe_load((done.folder / RECIPE).read_text())
    assert Recipe.model_validate(from_sections(text)) == done.recipe


def test_a_rerun_gives_the_same_bytes(lake: Lake, spec: DatasetSpec) -> None:
    before = []
    for day in DAYS:
        advise_day(spec, "dlrm", day, lake)
        before.append(files(lake, day))
    for day, written in zip(DAYS, before, strict=True):
        advise_day(spec, "dlrm", day, lake)
        assert files(lake, day) == written


def test_the_written_recipe_has_three_sections(lake: Lake, catalog: Path) -> None:
    spec = edit(catalog, SIGOPT)
    done = advise_day(spec, "dlrm", DAYS[0], lake)
    written = yaml.safe_load((done.folder / RECIPE).read_text())
    assert [*written] == ["model", "training", "sigopt"]
    assert Search.model_validate(written["sigopt"]) == done.search == plan_tuning(spec, "dlrm", DAYS[0], lake, detect()).search
    assert written["sigopt"] == lake.manifest(STAGE, "criteo", DAYS[0])["search"]
    assert (done.search.observation_budget, done.search.metrics[0].threshold) == (60, 0.7)
    assert Recipe.model_validate(from_sections(written)) == done.recipe


def test_each_value_of_the_search_has_its_origin_and_replaced_ones_are_named(lake: Lake, catalog: Path) -> None:
    done = advise_day(edit(catalog, SIGOPT), "dlrm", DAYS[0], lake)
    assert done.origins.keys() == flat(done.recipe.model_dump(mode="json")).keys() | by_name(done.search.section).keys()
    edits = "edits, criteo/dlrm.yaml"
    assert {key: done.origins[f"sigopt.{key}"] for key in ("observation_budget", "parallel_bandwidth", "window_days")} == {
        "observation_budget": edits,
        "parallel_bandwidth": "advice, search",
        "window_days": "default",
    }
    of_dropout = {key: done.origins[f"sigopt.parameters.dropout.{key}"] for key in ("key", "bounds.min", "bounds.max")}
    assert of_dropout == {"key": "advice, search", "bounds.min": edits, "bounds.max": edits}
    assert done.origins["sigopt.metrics.auc.threshold"] == edits
    replaced = {each.key: (each.value, each.by) for each in done.overrode}
    assert replaced["sigopt.parameters.dropout.bounds.max"] == (0.5, 0.2)
    assert replaced["sigopt.parameters.decay_to"][1] is None
    assert replaced["sigopt.observation_budget"][1] == 60
    assert "sigopt.parallel_bandwidth" not in replaced


def test_a_rerun_on_another_machine_gives_the_same_search(
    lake: Lake, spec: DatasetSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    advise_day(spec, "dlrm", DAYS[0], lake)
    before = files(lake, DAYS[0])
    monkeypatch.setattr(module, "detect", lambda: Hardware("another processor", 64, 1 << 40))
    advise_day(spec, "dlrm", DAYS[0], lake)
    assert files(lake, DAYS[0]) == before
    assert advise_day(spec, "dlrm", DAYS[1], lake).search.parallel_bandwidth == 64


def test_the_search_does_not_change_the_identity_of_the_recipe(lake: Lake, catalog: Path) -> None:
    plain = advise_day(load_dataset(catalog / "criteo.yaml"), "dlrm", DAYS[0], lake)
    digest = lake.digest(STAGE, "criteo", DAYS[0])
    searched = advise_day(edit(catalog, "sigopt: {observation_budget: 3}"), "dlrm", DAYS[0], lake)
    assert searched.recipe == plain.recipe and lake.digest(STAGE, "criteo", DAYS[0]) == digest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "sigopt: {observation_budgett: 3}",
            r"dlrm\.yaml: sigopt\.observation_budgett: unknown key.*observation_budget.*line 1",
        ),
        ("sigopt: {parallel_bandwidth: many}", r"dlrm\.yaml: sigopt\.parallel_bandwidth: expected an integer, found 'many'"),
        (
            "sigopt: {parameters: [{name: x, key: dense_optimizer.lrr, type: double, bounds: {min: 0, max: 1}}]}",
            r"dlrm\.yaml: sigopt\.parameters\.0\.key: x: the recipe has no key 'dense_optimizer\.lrr'",
        ),
    ],
)
def test_a_wrong_key_of_the_search_is_refused_and_nothing_is_written(
    lake: Lake, catalog: Path, text: str, message: str
) -> None:
    with pytest.raises(CatalogError, match=message):
        advise_day(edit(catalog, text), "dlrm", DAYS[0], lake)
    assert not lake.has(STAGE, "criteo", DAYS[0])


def test_a_value_outside_of_what_is_searched_is_a_warning(lake: Lake, catalog: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = "sigopt: {parameters: [{name: dropout, bounds: {min: 0.3, max: 0.5}}]}"
    advise_day(edit(catalog, text), "dlrm", DAYS[0], lake)
    assert "sigopt.parameters.0: dropout: the recipe's model.dropout, 0.0, is outside its values" in caplog.text


def test_edits_apply_and_what_they_replace_is_logged(lake: Lake, catalog: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "evergreen")
    done = advise_day(edit(catalog, "training: {batch_size: 512}"), "dlrm", DAYS[0], lake)
    assert done.recipe.batch_size == 512
    assert done.origins["batch_size"] == "edits, criteo/dlrm.yaml"
    assert "the edits replace batch_size 256 (recipe dlrm) by 512" in caplog.text


def test_an_edit_of_the_structure_waits_and_says_so(lake: Lake, catalog: Path, caplog: pytest.LogCaptureFixture) -> None:
    advise_day(edit(catalog, "training: {seed: 1}"), "dlrm", DAYS[0], lake)
    changed = edit(catalog, "model: {embedding_dim: 64}\ntraining: {batch_size: 512}")
    done = advise_day(changed, "dlrm", DAYS[1], lake)
    assert (done.recipe.model.embedding_dim, done.recipe.batch_size) == (32, 512)
    assert dict(done.refused) == {"model.embedding_dim": 64}
    assert "not applied" in caplog.text and "model.embedding_dim: 64" in caplog.text
    assert advise_day(changed, "dlrm", DAYS[0], lake).recipe.model.embedding_dim == 64  # the first day starts from nothing
    assert advise_day(changed, "dlrm", DAYS[1], lake).recipe.model.embedding_dim == 64


def test_the_structure_of_a_model_without_a_stored_recipe_is_kept(lake: Lake, catalog: Path) -> None:
    spec = edit(catalog, "model: {embedding_dim: 64}")
    with lake.write(tuned_models("dlrm"), "criteo", DAYS[0]) as folder:
        lake.write_manifest(folder, {"recipe": recipe_of(spec, "dlrm").model_dump(mode="json")})
    assert advise_day(edit(catalog, "model: {embedding_dim: 8}"), "dlrm", DAYS[1], lake).recipe.model.embedding_dim == 64


def test_a_wrong_edit_is_refused_and_nothing_is_written(lake: Lake, catalog: Path) -> None:
    with pytest.raises(CatalogError, match=r"dlrm.yaml: training.batch_size: .*line 1"):
        advise_day(edit(catalog, "training: {batch_size: 0}"), "dlrm", DAYS[0], lake)
    assert not lake.has(STAGE, "criteo", DAYS[0])


def write_restart(lake: Lake, spec: DatasetSpec, changed: dict[str, Any]) -> Recipe:
    """Write an adopted tuning of the second day whose state has another structure."""
    declared = recipe_of(spec, "dlrm")
    tuned = declared.model_copy(update={"model": declared.model.model_copy(update={"embedding_dim": 64}), "seed": 7})
    flags = {"adopted": True, "restarts": True, "experiment": "1", "digest": "d" * 64}
    with lake.write(tuning_results("dlrm"), "criteo", DAYS[1]) as folder:
        lake.write_manifest(folder, {**flags, "recipe": tuned.model_dump(mode="json"), "changed": changed})
    return tuned


def test_a_day_that_starts_from_a_stored_state_keeps_its_structure(lake: Lake, catalog: Path) -> None:
    spec = edit(catalog, "training: {seed: 1}")
    advise_day(spec, "dlrm", DAYS[0], lake)
    write_restart(lake, spec, {"model.embedding_dim": 64})
    done = advise_day(edit(catalog, "model: {embedding_dim: 8}"), "dlrm", DAYS[1], lake)
    assert done.recipe.model.embedding_dim == 64 and dict(done.refused) == {"model.embedding_dim": 8}


def test_a_late_tuning_of_another_structure_is_not_applied_by_half(lake: Lake, catalog: Path) -> None:
    spec = load_dataset(catalog / "criteo.yaml")
    before = [advise_day(spec, "dlrm", day, lake) for day in DAYS[:2]][-1]
    changed = {"model.embedding_dim": 64, "table_optimizer.lr": 0.2}
    write_restart(lake, spec, changed)
    done = advise_day(spec, "dlrm", DAYS[2], lake)
    assert done.recipe == before.recipe and dict(done.refused) == changed


def test_an_edit_that_contradicts_a_tuned_value_names_both(lake: Lake, catalog: Path) -> None:
    spec = load_dataset(catalog / "criteo.yaml")
    advise_day(spec, "dlrm", DAYS[0], lake)
    flags = {"adopted": True, "restarts": False, "experiment": "1", "changed": {"schedule.warm_up": 0.3}}
    with lake.write(tuning_results("dlrm"), "criteo", DAYS[1]) as folder:
        lake.write_manifest(folder, {**flags, "recipe": recipe_of(spec, "dlrm").model_dump(mode="json")})
    advise_day(spec, "dlrm", DAYS[1], lake)
    edited = edit(catalog, "training: {schedule: {decay_start: 0.2}}")
    with pytest.raises(CatalogError, match=rf"criteo/dlrm.yaml.*tuned for {DAYS[1]}.*schedule.warm_up"):
        advise_day(edited, "dlrm", DAYS[2], lake)


def test_a_fresh_start_uses_no_tuning_of_earlier_days(lake: Lake, spec: DatasetSpec) -> None:
    advise_day(spec, "dlrm", DAYS[0], lake)
    write_restart(lake, spec, {"model.embedding_dim": 64, "seed": 7})
    fresh = advise_day(spec.starting_at(DAYS[1]), "dlrm", DAYS[1], lake)
    assert (fresh.recipe.model.embedding_dim, fresh.recipe.seed) == (32, recipe_of(spec, "dlrm").seed)
    manifest = lake.manifest(STAGE, "criteo", DAYS[1])
    assert manifest["starts_from"] is None and not any("tuning_results" in place for place in manifest["lineage"])


def test_a_tuned_value_can_be_none(lake: Lake, catalog: Path) -> None:
    spec = load_dataset(catalog / "criteo.yaml")
    overrides = {**spec.recipe.overrides, "early_stop": {"target": 0.8}, "splits": ["train"]}
    spec = spec.model_copy(update={"recipe": spec.recipe.model_copy(update={"overrides": overrides})})
    assert advise_day(spec, "dlrm", DAYS[0], lake).recipe.early_stop is not None
    write_restart(lake, spec, {"early_stop": None, "seed": 7})
    done = advise_day(spec, "dlrm", DAYS[1], lake).recipe
    assert done.early_stop is None and done.seed == 7


def test_the_advice_of_an_adopted_tuning_applies_from_its_day_on(lake: Lake, spec: DatasetSpec) -> None:
    advise_day(spec, "dlrm", DAYS[0], lake)
    layer = {"origin": "advice, smooth", "values": {"label_smoothing": 0.1}}
    advice = {"days": [], "rows": None, "applied": [layer], "values": [], "kept": [], "suggestions": []}
    tuned = recipe_of(spec, "dlrm").model_copy(update={"seed": 7, "label_smoothing": 0.1})
    with lake.write(tuning_results("dlrm"), "criteo", DAYS[1]) as folder:
        flags = {"adopted": True, "restarts": False, "experiment": "1", "changed": {"seed": 7}, "advice": advice}
        lake.write_manifest(folder, {**flags, "recipe": tuned.model_dump(mode="json")})
    for day in DAYS[1:]:
        done = advise_day(spec, "dlrm", day, lake)
        assert (done.recipe.seed, done.recipe.label_smoothing) == (7, 0.1)
        assert done.origins["seed"].startswith("tuned for") and done.origins["label_smoothing"] == "advice, smooth"


def test_a_tuning_that_is_written_after_its_day_was_advised_reaches_later_days(lake: Lake, spec: DatasetSpec) -> None:
    for day in DAYS[:2]:
        advise_day(spec, "dlrm", day, lake)
    before = files(lake, DAYS[1])
    tuned = recipe_of(spec, "dlrm").model_copy(update={"seed": 7})
    with lake.write(tuning_results("dlrm"), "criteo", DAYS[1]) as folder:
        flags = {"adopted": True, "restarts": False, "experiment": "1", "changed": {"seed": 7}}
        lake.write_manifest(folder, {**flags, "recipe": tuned.model_dump(mode="json")})
    done = advise_day(spec, "dlrm", DAYS[2], lake)
    assert files(lake, DAYS[1]) == before
    assert done.recipe.seed == 7 and done.origins["seed"] == f"tuned for {DAYS[1]}, experiment 1"
    assert f"{tuning_results('dlrm')}/{DAYS[1]}" in lake.manifest(STAGE, "criteo", DAYS[2])["lineage"]
