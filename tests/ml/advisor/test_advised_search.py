from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ml.advisor.advise import advise
from ml.advisor.advised_search import AdvisedSearch, advised_search
from ml.advisor.rule_files import load_rules
from ml.advisor.wishes import Wishes
from ml.catalog.load import load_catalog
from ml.recipes.assignments import with_assignments
from ml.recipes.search import Search, check_search
from tests.helpers.feature_profiles import profile_of
from tests.helpers.rule_files import write
from tests.ml.advisor.test_advise import MACHINE, MODELS

CATALOG = load_catalog()


def search_of(dataset: str, model: str, rows: int | None = 300_000, wishes: Wishes | None = None) -> tuple[Any, AdvisedSearch]:
    spec = CATALOG[dataset]
    advice = advise(spec, model, profile_of(spec, rows) if rows else None, MACHINE, wishes)
    return advice, advised_search(advice, wishes, cores=MACHINE.cores)


def named(found: AdvisedSearch) -> dict[str, dict[str, Any]]:
    return {parameter["name"]: parameter for parameter in found.parameters}


@pytest.mark.parametrize(("dataset", "model"), MODELS)
@pytest.mark.parametrize("rows", [None, 100, 300_000, 50_000_000])
def test_the_section_is_valid_and_contains_the_advised_values(dataset: str, model: str, rows: int | None) -> None:
    advice, found = search_of(dataset, model, rows)
    search = Search.model_validate(found.section)
    check_search(search, advice.recipe)  # refuses defaults outside of their values
    assert search.warnings() == []
    assert set(search.defaults(advice.recipe)) == {parameter.name for parameter in search.parameters}


@pytest.mark.parametrize(("dataset", "model"), MODELS)
def test_grids_ascend_and_rates_are_logarithmic(dataset: str, model: str) -> None:
    _, found = search_of(dataset, model)
    for parameter in found.parameters:
        if "grid" in parameter:
            assert parameter["grid"] == sorted(set(parameter["grid"]))
        if parameter["key"].endswith(".lr"):
            assert parameter["transformation"] == "log" and parameter["bounds"]["min"] > 0


def test_rates_are_bounded_for_the_smallest_batch_that_is_searched() -> None:
    _, found = search_of("criteo", "dlrm")
    parameters = named(found)
    assert parameters["batch_size"]["grid"][0] == 128
    assert parameters["dense_lr"]["bounds"]["max"] == pytest.approx(0.003 * (128 / 256) ** 0.5, rel=1e-3)


def test_warm_up_ends_before_the_decay_by_a_linear_constraint() -> None:
    _, found = search_of("criteo", "dlrm")
    (constraint,) = found.linear_constraints
    weights = {term["name"]: term["weight"] for term in constraint["terms"]}
    assert (constraint["type"], weights) == ("greater_than", {"decay_start": 1, "warm_up": -1})


def test_every_category_and_grid_value_gives_a_valid_recipe() -> None:
    for dataset, model in MODELS:
        advice, found = search_of(dataset, model)
        search = Search.model_validate(found.section)
        for parameter in search.parameters:
            for value in (*parameter.categorical_values, *parameter.grid):
                with_assignments(advice.recipe, search.parameters, {parameter.name: value})


def test_wide_and_deep_searches_everything_that_the_article_lists() -> None:
    _, found = search_of("criteo", "wide_deep", 5_000_000, Wishes(trials=120, parallel=2))
    keys = {parameter["key"]: parameter for parameter in found.parameters}
    shapes = [shape.split("-") for shape in keys["model.deep"]["categorical_values"]]
    assert len({len(shape) for shape in shapes}) >= 3  # layers
    assert len({width for shape in shapes for width in shape}) >= 5  # units
    assert keys["model.embedding_dim"]["grid"]
    assert keys["model.dropout"]["bounds"] == {"min": 0.0, "max": 0.5}
    assert {"dense_optimizer.lr", "table_optimizer.lr", "model.wide_optimizer.lr"} <= set(keys)  # rates
    assert {"schedule.decay_start", "schedule.decay_to", "schedule.warm_up"} <= set(keys)
    assert keys["batch_size"]["grid"]
    assert keys["dense_optimizer.kind"]["categorical_values"] == ["adagrad", "adam"]
    assert (found.observation_budget, found.parallel_bandwidth) == (120, 2)


def test_a_budget_that_is_too_small_warns() -> None:
    _, found = search_of("criteo", "dlrm", wishes=Wishes(trials=5))
    [warning] = Search.model_validate(found.section).warnings()
    assert found.observation_budget == 5 and f"5 trials are few for {len(found.parameters)} parameters" in warning


def test_wishes_become_thresholds() -> None:
    _, found = search_of("criteo", "dlrm", wishes=Wishes(seconds=60, target=("auc", 0.76)))
    assert [(m["name"], m["strategy"], m.get("threshold")) for m in found.metrics] == [
        ("auc", "optimize", 0.76),
        ("training_time", "optimize", 60 * 3),  # five days, of which one is judged and the last one is not trained
    ]


def test_batch_sizes_leave_enough_steps_a_day() -> None:
    _, found = search_of("criteo", "dlrm", 20_000)
    assert named(found)["batch_size"]["grid"] == [128, 256]


def test_a_switch_is_searched_with_its_advised_value(tmp_path: Path) -> None:
    rules = load_rules(write(tmp_path, "search: [{name: shortcut, key: model.linear_shortcut, values: ['false']}]"))
    advice = advise(CATALOG["criteo"], "dlrm", None, MACHINE, rules=rules)
    assert named(advised_search(advice))["shortcut"]["categorical_values"] == ["false", "true"]
