"""The check of recipes before anything runs: wrong keys of any section, with file, path and line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import pytest
from pydantic import ValidationError

from ml.advisor.check import check_recipes, check_section
from ml.advisor.rules import Rules
from ml.advisor.search_section import search_section
from ml.catalog.load import CatalogError, load_catalog, load_dataset
from ml.catalog.reference import reachable
from ml.preflight.finding import Finding
from ml.recipes.recipe import Recipe, recipe_of
from ml.recipes.search import Search
from ml.recipes.wishes import WishesSection


def found(criteo: Path, text: str) -> list[Finding]:
    (criteo / "recipes" / "criteo" / "dlrm.yaml").write_text(text)
    return check_recipes(load_dataset(criteo / "criteo.yaml"))


@pytest.mark.parametrize("name", ["criteo", "globo", "movielens", "synthetic"])
def test_the_recipes_of_the_catalog_pass(name: str) -> None:
    assert check_recipes(load_catalog()[name]) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {embeding_dim: 8}", "model.embeding_dim: unknown key"),
        ("training: {batch_size: many}", "training.batch_size: expected an integer, found 'many' (line 1)"),
        (
            "sigopt: {parallel_bandwith: 2}",
            "sigopt.parallel_bandwith: unknown key, found 2; did you mean 'parallel",
        ),
        ("sigopt: {metrics: [{name: auc, threshhold: 0.7}]}", "sigopt.metrics.0.threshhold: unknown key"),
        ("sigopt: {observation_budget: 1.5}", "sigopt.observation_budget: expected"),
        ("sigopt: {parameters: [{name: top, remove: yes please}]}", "sigopt.parameters.0.remove: expected true"),
        (
            "sigopt: {parameters: [{name: x, key: tabels.init_scale, type: double, bounds: {min: 0, max: 1}}]}",
            "sigopt.parameters.0.key: x: the recipe has no key 'tabels.init_scale'",
        ),
        (
            "sigopt: {parameters: [{name: x, key: batch_size, type: double, bounds: {min: 64, max: 512}}]}",
            "sigopt.parameters.0.type: x: expected int",
        ),
        (
            "sigopt: {parameters: [{name: x, key: tables.features.C3.min_cuont, type: int, bounds: {min: 1, max: 3}}]}",
            "sigopt.parameters.0.key: x: the recipe has no key 'tables.features.C3.min_cuont'",
        ),
        (
            "sigopt: {parameters: [{name: x, key: tables.features.C99.min_count, type: int, bounds: {min: 1, max: 3}}]}",
            "sigopt.parameters.0.key: x: the recipe has no key 'tables.features.C99.min_count'",
        ),
        ("sigoptt: {}", "sigoptt: no such section; expected model, training, sigopt, wishes"),
        ("wishes: {memori: 2gb}", "wishes.memori: unknown key, found '2gb'; did you mean 'memory'?"),
        ("wishes: {memory: 2}", "wishes.memory: expected text, found 2"),
        ("wishes: {memory: much}", "wishes.memory: expected a size such as 500mb or 2gb, found 'much'"),
        ("wishes: {seconds: 0}", "wishes.seconds: expected greater than 0, found 0"),
        ("training: {batch_size: yes}", "training.batch_size: expected an integer, found True (line 1)"),
        ("training: {dense_optimizer: {lr: true}}", "training.dense_optimizer.lr: expected a number, found True"),
        ("model: {top: [64, true]}", "model.top.1: expected an integer, found True"),
        ("sigopt: {observation_budget: true}", "sigopt.observation_budget: expected an integer, found True"),
        (
            "sigopt: {parameters: [{name: x, key: seed, type: int, bounds: {min: no, max: 3}}]}",
            "sigopt.parameters.0.bounds.min: expected a number, found False",
        ),
        ("wishes: {seconds: true}", "wishes.seconds: expected a number, found True"),
        ("wishes: {target: {auc: 0.7, log_loss: 0.5}}", "wishes.target: expected either auc or log_loss"),
    ],
)
def test_a_wrong_key_of_any_section_is_an_error_with_its_path(criteo: Path, text: str, message: str) -> None:
    [finding] = found(criteo, text)
    assert (finding.severity, finding.key) == ("error", "models.dlrm")
    assert f"{criteo / 'recipes' / 'criteo' / 'dlrm.yaml'}: {message}" in finding.found


def trues(annotation: Any) -> Iterator[Any]:
    """Yield values with true in the place of each number of a type."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation in (int, float):
        yield True
    elif origin in (Union, UnionType) and bool not in inner:
        yield from (value for one in inner for value in trues(one))
    elif origin is Annotated:
        yield from trues(inner[0])
    elif origin is tuple:
        yield from ([value] for value in trues(inner[0]))
    elif origin is dict:
        yield from ({"x": value} for value in trues(inner[1]))


NUMBERS = [
    pytest.param(model, field.alias or name, value, id=f"{model.__name__}.{name}")
    for root in (Recipe, Search, WishesSection, Rules)
    for model in reachable(root)
    for name, field in model.model_fields.items()
    for value in trues(field.annotation)
]


def test_the_numbers_of_all_sections_are_known() -> None:
    keys = {param.id for param in NUMBERS}
    assert {"Recipe.batch_size", "Recipe.loss_weights", "DlrmRecipe.top", "Bounds.min", "WishedTarget.auc"} <= keys


@pytest.mark.parametrize(("model", "key", "value"), NUMBERS)
def test_true_is_not_a_number(model: Any, key: str, value: Any) -> None:
    with pytest.raises(ValidationError) as refused:
        model.model_validate({key: value})
    assert [error for error in refused.value.errors() if error["loc"][0] == key and error["input"] is True]


def test_numbers_can_be_text_as_yaml_reads_those_without_a_dot(criteo: Path) -> None:
    assert found(criteo, "training: {dense_optimizer: {lr: 1e-3}}") == []
    assert recipe_of(load_dataset(criteo / "criteo.yaml"), "dlrm").dense_optimizer.lr == 1e-3


@pytest.mark.parametrize("wishes", ["target: {auc: 0.7}", "target: {log_loss: 0.5}, seconds: 60, memory: 2gb", "seconds: 1"])
def test_wishes_make_a_search_that_the_tuning_service_accepts(criteo: Path, wishes: str) -> None:
    assert found(criteo, f"wishes: {{{wishes}}}") == []


def test_a_rule_file_that_is_not_valid_is_an_error(criteo: Path) -> None:
    entry = criteo / "criteo.yaml"
    entry.write_text(entry.read_text().replace("\nrecipe:\n", "\nrecipe:\n  rules: [ours.yaml]\n"))
    [missing] = check_recipes(load_dataset(entry))
    assert (missing.severity, missing.key) == ("error", "recipe.rules") and "ours.yaml: cannot be read" in missing.found
    rules = criteo / "ours.yaml"
    rules.write_text("rulez: []")
    [wrong] = check_recipes(load_dataset(entry))
    assert f"{rules}: rulez: unknown key" in wrong.found
    rules.write_text("rules: []")
    assert check_recipes(load_dataset(entry)) == []


def test_each_fault_is_a_finding(criteo: Path) -> None:
    assert len(found(criteo, "training: {batch_size: 0, seed: -1}")) == 2


def test_a_value_that_advice_can_change_is_a_warning(criteo: Path) -> None:
    [finding] = found(criteo, "sigopt: {parameters: [{name: batch_size, grid: [16384, 32768]}]}")
    assert finding.severity == "warning" and "the recipe's batch_size, 256, is outside its values" in finding.found


@pytest.mark.parametrize("key", ["tables.features.C3.min_count", "early_stop.every"])
def test_a_key_that_advice_can_add_is_not_judged(criteo: Path, key: str) -> None:
    one = f"{{name: x, key: {key}, type: double, bounds: {{min: 0.1, max: 1}}}}"
    assert found(criteo, f"sigopt: {{parameters: [{one}]}}") == []


def test_without_parameters_only_tuning_is_refused(criteo: Path) -> None:
    spec = load_dataset(criteo / "criteo.yaml")
    searched = search_section(spec, "dlrm", recipe_of(spec, "dlrm"), 100_000, 2.0).search.parameters
    removed = ", ".join(f"{{name: {parameter.name}, remove: true}}" for parameter in searched)
    assert searched and found(criteo, f"sigopt: {{parameters: [{removed}]}}") == []


def test_a_key_that_advice_did_not_add_on_a_day_is_a_warning(criteo: Path) -> None:
    one = "{name: x, key: tables.features.C3.min_count, type: int, bounds: {min: 1, max: 9}}"
    assert found(criteo, f"sigopt: {{parameters: [{one}]}}") == []
    spec = load_dataset(criteo / "criteo.yaml")
    recipe = recipe_of(spec, "dlrm")
    search = search_section(spec, "dlrm", recipe, 100_000, 2.0).search
    (warning,) = check_section(spec, "dlrm", search, recipe)
    assert "tables.features.C3.min_count" in warning
    with pytest.raises(CatalogError, match="C3"):
        check_section(spec, "dlrm", search, recipe, strict=True)
