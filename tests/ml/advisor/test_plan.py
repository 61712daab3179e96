"""The plan of a tuning: the advised search with the user's edits, over a recipe that has what earlier tunings found."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from ml.advisor import plan as plan_module
from ml.advisor.advice import Advice
from ml.advisor.day import advise_day
from ml.advisor.hardware import Hardware
from ml.advisor.plan import Plan, plan_tuning
from ml.advisor.stored_advice import StoredAdvice
from ml.catalog.load import CatalogError, load_dataset
from ml.lake import Lake
from ml.recipes.layers import Layer
from ml.recipes.recipe import recipe_of
from ml.recipes.search import check_search
from ml.stages import FEATURE_PROFILES, advisor_recipes
from tests.helpers.damage import damaged
from tests.helpers.feature_profiles import profile_of
from tests.helpers.training_days import made_spec
from tests.helpers.trials import SEED, TRIALS

MACHINE = Hardware("a processor", 2, 8 << 30)
DAY = "2014-01-05"


def plan(criteo: Path, lake: Lake, edits: dict[str, Any] | None = None, model: str = "dlrm", **changes: Any) -> Plan:
    if edits is not None:
        (criteo / "recipes" / "criteo" / f"{model}.yaml").write_text(yaml.safe_dump(edits))
    return plan_tuning(load_dataset(criteo / "criteo.yaml"), model, DAY, lake, MACHINE, changes)


def parameters(found: Plan) -> dict[str, Any]:
    return {parameter.name: parameter for parameter in found.search.parameters}


@pytest.mark.parametrize("model", ["dlrm", "wide_deep", "deepfm", "dcn_v2"])
def test_the_plan_of_every_model_can_be_tuned(criteo: Path, lake: Lake, model: str) -> None:
    found = plan(criteo, lake, model=model)
    check_search(found.search, found.recipe)
    assert found.search.parameters and not found.search.warnings()
    assert found.search.defaults(found.recipe).keys() == parameters(found).keys()


def test_rules_of_the_entry_reach_the_plan(criteo: Path, lake: Lake) -> None:
    (criteo / "rules").mkdir()
    (criteo / "rules" / "ours.yaml").write_text(
        "rules: [{name: small, set: {batch_size: 512}, reason: Batches of a test are small., source: a measurement}]\n"
        "search: [{name: batch_size, key: batch_size, grid: [384, 512, 640]}]"
    )
    entry = criteo / "criteo.yaml"
    entry.write_text(entry.read_text().replace("\nrecipe:\n", "\nrecipe:\n  rules: [rules/ours.yaml]\n"))
    found = plan(criteo, lake)
    assert found.recipe.batch_size == 512 and parameters(found)["batch_size"].grid == (384, 512, 640)


def test_advice_that_is_only_explained_is_not_tried(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, days = made_spec(), ["2026-01-01", "2026-01-02"]
    monkeypatch.setattr(Advice, "layers", [Layer("advice, small", {"batch_size": 64})])
    explained = spec.model_copy(update={"recipe": spec.recipe.model_copy(update={"advice": "explain"})})
    assert plan_tuning(spec, "dlrm", days[1], lake, MACHINE).recipe.batch_size == 64
    assert plan_tuning(explained, "dlrm", days[1], lake, MACHINE).recipe == recipe_of(spec, "dlrm")


def test_without_a_profile_nothing_is_calibrated(criteo: Path, lake: Lake, tmp_path: Path) -> None:
    (criteo / "recipes" / "criteo" / "dlrm.yaml").write_text("wishes: {seconds: 60}")
    found = plan_tuning(load_dataset(criteo / "criteo.yaml"), "dlrm", DAY, lake, MACHINE, home=tmp_path / "home")
    assert any("predictions need a profile" in warning for warning in found.advice.warnings)
    assert not (tmp_path / "home").exists()
    stored = StoredAdvice.of(found.advice)
    assert (stored.wishes, stored.memory) == ({"seconds": 60}, 0.8 * MACHINE.memory), "the days after it compare theirs"


def test_trials_that_take_too_much_memory_together_are_warned_of(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spec, days = made_spec(), ["2026-01-01", "2026-01-02"]
    with lake.write(FEATURE_PROFILES, spec.name, days[0]) as folder:
        lake.write_manifest(folder, {"fingerprint": spec.fingerprint, "digest": "d", "rows": 640})
    monkeypatch.setattr(plan_module, "profile_of", lambda spec, days, lake: profile_of(spec, 640))

    def warned(trials: int, peaks: float) -> bool:
        """Whether there is a warning on a machine whose limit is this number of predicted peaks of one trial."""
        peak = plan_tuning(spec, "dlrm", days[1], lake, MACHINE).advice.prediction
        assert peak is not None
        machine = replace(MACHINE, memory=int(peaks * peak.peak_bytes / 0.8))
        caplog.clear()
        plan_tuning(spec, "dlrm", days[1], lake, machine, {"parallel_bandwidth": trials})
        return f"{trials} trials at a time are predicted to take {trials} x " in caplog.text

    assert warned(3, 2.9) and not warned(3, 3.1)
    assert not warned(1, 0.9), "the advice warns of a single one"


def test_an_edited_value_is_fixed_unless_its_parameter_is_listed(criteo: Path, lake: Lake) -> None:
    free = plan(criteo, lake)
    assert "batch_size" in parameters(free)
    fixed = plan(criteo, lake, {"training": {"batch_size": 512}})
    assert "batch_size" not in parameters(fixed) and fixed.recipe.batch_size == 512
    listed = {"name": "batch", "key": "batch_size", "type": "int", "grid": [256, 512]}
    freed = plan(criteo, lake, {"training": {"batch_size": 512}, "sigopt": {"parameters": [listed]}})
    assert parameters(freed)["batch"].grid == (256, 512) and freed.recipe.batch_size == 512


def test_a_removed_mapping_is_fixed_with_all_its_keys(criteo: Path, lake: Lake) -> None:
    def keys(found: Plan) -> list[str]:
        return [of.key for of in found.search.parameters if of.key.startswith("schedule.")]

    assert keys(plan(criteo, lake))
    assert not keys(plan(criteo, lake, {"training": {"schedule": None}}))


def test_parameters_are_added_changed_and_removed(criteo: Path, lake: Lake) -> None:
    before = parameters(plan(criteo, lake))
    edits = [
        {"name": "warm_up", "remove": True},
        {"name": "dropout", "bounds": {"min": 0.0, "max": 0.2}},
        {"name": "smoothing", "key": "label_smoothing", "type": "double", "bounds": {"min": 0.0, "max": 0.1}},
    ]
    found = plan(criteo, lake, {"sigopt": {"parameters": edits, "observation_budget": 7, "window_days": 3}})
    after = parameters(found)
    assert after.keys() == before.keys() - {"warm_up"} | {"smoothing"}
    assert after["dropout"].bounds.max == 0.2 and after["dropout"].key == before["dropout"].key
    assert (found.search.observation_budget, found.search.window_days) == (7, 3)
    assert not found.search.linear_constraints, "the constraint names the removed parameter"
    check_search(found.search, found.recipe)


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        (
            {"name": "top", "key": "model.top", "type": "categorical", "categorical_values": ["8", "16-8"]},
            r"dlrm\.yaml: sigopt\.parameters\.1: top: the recipe's model\.top, [-\d]+, is outside its values; .* \(line \d+\)$",
        ),
        (
            {"name": "new", "key": "model.tops", "type": "double", "bounds": {"min": 0, "max": 1}},
            r"dlrm\.yaml: sigopt\.parameters\.1\.key: new: the recipe has no key 'model\.tops' \(tops\) \(line \d+\)$",
        ),
    ],
)
def test_a_parameter_that_does_not_fit_the_recipe_names_the_file(
    criteo: Path, lake: Lake, parameter: dict[str, Any], message: str
) -> None:
    with pytest.raises(CatalogError, match=message):
        plan(criteo, lake, {"sigopt": {"parameters": [{"name": "warm_up", "remove": True}, parameter]}})


EDITS = """
model: {dropout: 0.1, top: [64], tables: {features: {C1: {kind: collisionless, min_count: 2}, C2: {kind: static, rows: 8}}}}
training: {dense_optimizer: {lr: 0.002, clip_norm: null}, schedule: {warm_up: 0.1}, seed: 1}
sigopt:
  observation_budget: 60
  window_days: 5
  metrics: [{name: auc, threshold: 0.7}, {name: training_time, objective: minimize, threshold: 60}]
  conditionals: [{name: kind, values: [a, b]}]
  linear_constraints: [{type: less_than, threshold: 1, terms: [{name: x, weight: 1}, {name: smoothing, weight: 2}]}]
  parameters:
  - {name: smoothing, key: label_smoothing, type: double, bounds: {min: 0, max: 0.1}}
  - {name: x, key: schedule.warm_up, type: double, bounds: {min: 0, max: 0.3}}
  - {name: batch, key: batch_size, type: int, grid: [256, 512], conditions: {kind: [a]}}
  - {name: decay_to, remove: true}
"""


@pytest.mark.slow
def test_damaged_edits_are_refused_with_their_file_and_never_crash(criteo: Path, lake: Lake) -> None:
    draw, edits, refused = random.Random(SEED), yaml.safe_load(EDITS), 0
    plan(criteo, lake, edits)
    for _ in range(20 * TRIALS):
        try:
            plan(criteo, lake, damaged(edits, draw))
        except CatalogError as error:
            refused += 1
            assert str(criteo / "recipes" / "criteo" / "dlrm.yaml") in str(error)
    assert refused >= 10 * TRIALS


def test_changes_of_a_run_take_precedence_over_edits(criteo: Path, lake: Lake) -> None:
    assert plan(criteo, lake, {"sigopt": {"observation_budget": 7}}, observation_budget=3).search.observation_budget == 3


def test_values_of_earlier_tunings_are_tried_first(criteo: Path, lake: Lake) -> None:
    spec = load_dataset(criteo / "criteo.yaml")
    advise_day(spec, "dlrm", "2014-01-04", lake)
    stage = advisor_recipes("dlrm")
    tuned = {"origin": "tuned for 2014-01-03, experiment 1", "values": {"dense_optimizer": {"lr": 0.0017}}}
    lake.write_manifest(
        lake.partition(stage, "criteo", "2014-01-04"), lake.manifest(stage, "criteo", "2014-01-04") | {"tuned": tuned}
    )
    found = plan(criteo, lake)
    assert found.recipe.dense_optimizer.lr == 0.0017
    assert found.search.defaults(found.recipe)["dense_lr"] == 0.0017


@pytest.mark.parametrize(
    ("sigopt", "message"),
    [
        ({"observation_budget": 0}, r"dlrm\.yaml: sigopt\.observation_budget: "),
        ({"budget": 3}, r"dlrm\.yaml: sigopt\.budget: "),
        ({"parameters": [{"bounds": {"min": 0, "max": 1}}]}, r"dlrm\.yaml: sigopt\.parameters\.0: expected .* `name`"),
        ({"parameters": [3]}, r"sigopt\.parameters\.0: expected"),
        ({"parameters": [{"name": "new"}]}, r"dlrm\.yaml: sigopt\.parameters\.\d+\.key"),
        ({"window_days": 3, "scored_days": 3}, r"scored_days"),
        ({"parameters": None}, r"dlrm\.yaml: sigopt\.parameters: expected a list of parameters, found None \(line 2\)"),
        ({"parameters": [{"name": ["lr"]}]}, r"sigopt\.parameters\.0: expected .* `name`"),
        ({"parameters": [{"name": "top", "key": ["model", "top"]}]}, r"sigopt\.parameters\.0\.key: expected a recipe key"),
        (
            {"parameters": [{"name": "dense_lrr", "remove": True}]},
            r"sigopt\.parameters\.0: no parameter .*'dense_lrr'.* dense_lr,",
        ),
        ({"parameters": [{"name": "dense_lr", "remove": "no"}]}, r"sigopt\.parameters\.0\.remove: expected true, found 'no'"),
        ({"parameters": [{"name": "top", "remove": True}] * 2}, r"sigopt\.parameters\.1: 'top' is given twice"),
        ({"parameters": [{"name": "top", "bunds": 3}]}, r"sigopt\.parameters\.0\.bunds: unknown key.*'bounds'.*\(line 3\)"),
        ({"parameters": [{"name": "dropout", "bounds": {"min": "a", "max": 1}}]}, r"parameters\.0\.bounds\.min: expected"),
        ({"metrics": [{"name": "training_time"}]}, r"sigopt\.metrics\.0\.objective: expected `objective: minimize`"),
        (
            {"linear_constraints": [{"type": "less_than", "threshold": 1, "terms": [{"name": "x", "weight": 1}]}]},
            r"dlrm\.yaml: sigopt: linear_constraints\[0\]\.terms\[0\].*no parameter x",
        ),
    ],
)
def test_a_wrong_section_names_file_and_key(criteo: Path, lake: Lake, sigopt: dict[str, Any], message: str) -> None:
    with pytest.raises(CatalogError, match=message):
        plan(criteo, lake, {"sigopt": sigopt})


def test_edits_of_a_parameter_that_is_not_advised_need_not_repeat_its_key(criteo: Path, lake: Lake) -> None:
    edits = {"training": {"batch_size": 512}, "sigopt": {"parameters": [{"name": "batch_size", "grid": [256, 512]}]}}
    found = parameters(plan(criteo, lake, edits))["batch_size"]
    assert (found.key, found.type, found.grid) == ("batch_size", "int", (256, 512))


def test_a_parameter_that_only_other_models_or_profiles_have_can_be_removed(criteo: Path, lake: Lake) -> None:
    edits = [{"name": name, "remove": True} for name in ("cross_layers", "batch_size")]
    found = plan(criteo, lake, {"training": {"batch_size": 512}, "sigopt": {"parameters": edits}})
    assert "batch_size" not in parameters(found)
