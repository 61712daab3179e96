"""What is tuned: what does not fit together, or does not fit the recipe, is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from ml.recipes.assignments import with_assignments
from ml.recipes.recipe import Recipe, load_recipe
from ml.recipes.search import Search, check_search
from tests.helpers.searches import BATCH, LR, SHORTCUT, TOP, UNITS

SMOOTHING: dict[str, Any] = {"name": "smoothing", "key": "label_smoothing", "type": "double"}


@pytest.fixture(scope="module")
def dlrm() -> Recipe:
    return load_recipe("dlrm")


def test_the_defaults_are_assignments_that_give_the_recipe_again(dlrm: Recipe) -> None:
    search = Search.model_validate({"parameters": [LR, BATCH, TOP, SHORTCUT, UNITS]})
    defaults = search.defaults(dlrm)
    assert defaults == {"lr": 0.001, "batch": 256, "top": "128-64", "wide": "true", "units": 64}
    assert with_assignments(dlrm, search.parameters, defaults) == dlrm


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid": [3, 1, 2], "bounds": None}, "ascending"),
        ({"bounds": {"min": 2, "max": 1}}, "min below max"),
        ({"bounds": {"min": 0, "max": 1}}, "log requires"),
        ({"type": "int"}, "log requires"),
        ({"type": "categorical"}, "categorical_values"),
        ({"grid": [0.1, 0.2]}, "bounds or grid"),
        ({"extra": 1}, "extra"),
    ],
)
def test_a_wrong_parameter_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Search.model_validate({"parameters": [LR | change]})


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"parameters": [LR, LR | {"key": "seed"}]}, "the name lr"),
        ({"parameters": [LR, LR | {"name": "other"}]}, "the key dense_optimizer.lr"),
        ({"window_days": 2, "scored_days": 2}, "expected at least 4: .* 2 to score .* 1 to judge .* found 2"),
        ({"window_days": 2}, "expected at least 3"),
        ({"window_days": 4, "judged_days": 3}, "expected at least 5"),
        (
            {
                "metrics": [
                    {"name": "auc"},
                    {"name": "log_loss", "objective": "minimize"},
                    {"name": "training_time", "objective": "minimize"},
                ]
            },
            "at most two",
        ),
    ],
)
def test_parameters_and_metrics_fit_together(search: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Search.model_validate(search)


@pytest.mark.parametrize(
    ("search", "scored"),
    [({}, 2), ({"window_days": 3}, 1), ({"window_days": 4, "judged_days": 2}, 1), ({"window_days": 2, "judged_days": 0}, 1)],
)
def test_at_least_one_day_is_left_to_train_on(search: dict[str, Any], scored: int) -> None:
    assert Search.model_validate(search).days_scored == scored


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        (LR | {"key": "dense_optimizer.rate"}, "no key 'dense_optimizer.rate'"),
        (LR | {"key": "model.top.7"}, r"no key 'model.top.7' \(7\)"),
        (BATCH | {"grid": [1, 2]}, "the recipe's batch_size, 256, is outside its values"),
        (TOP | {"categorical_values": ["7", "8"]}, "model.top, 128-64, is outside"),
        (
            TOP | {"categorical_values": ["128-64", "0"]},
            r"top\): categorical_values: '0' is not a value of model.top: .*equal to 1",
        ),
        (SMOOTHING | {"bounds": {"min": 0, "max": 1}}, r"bounds: 1 is not a value of label_smoothing: .* less than 0\.5"),
        (SMOOTHING | {"bounds": {"min": -1, "max": 0.1}}, r"bounds: -1 is not a value of label_smoothing"),
        (BATCH | {"grid": [0, 256]}, "grid: 0 is not a value of batch_size"),
        (BATCH | {"grid": [256, 2**62]}, "grid: 4611686018427387904 is not a value of batch_size"),
        (BATCH | {"type": "double"}, "type: expected int, because batch_size is an integer"),
    ],
)
def test_a_parameter_that_does_not_fit_the_recipe_is_named(dlrm: Recipe, parameter: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_search(Search.model_validate({"parameters": [parameter]}), dlrm)
    check_search(Search.model_validate({"parameters": [LR, BATCH, TOP, SHORTCUT]}), dlrm)


def test_few_trials_and_linear_learning_rates_warn() -> None:
    linear = LR | {"transformation": None}
    found = Search.model_validate({"parameters": [linear, BATCH], "observation_budget": 19}).warnings()
    assert ["19 trials are few for 2 parameters" in found[0], "log" in found[1]] == [True, True]
    assert Search.model_validate({"parameters": [LR, BATCH], "observation_budget": 20}).warnings() == []


@pytest.mark.parametrize(("name", "objective"), [("auc", "minimize"), ("log_loss", "maximize"), ("model_bytes", "maximize")])
def test_the_wrong_direction_of_a_metric_is_refused(name: str, objective: str) -> None:
    with pytest.raises(ValidationError, match=f"expected `objective: .*the metric is {name}"):
        Search.model_validate({"metrics": [{"name": name, "objective": objective}]})


def test_a_metric_is_given_once() -> None:
    with pytest.raises(ValidationError, match="a metric is given twice"):
        Search.model_validate({"metrics": [{"name": "auc"}, {"name": "auc", "strategy": "store"}]})


@pytest.mark.parametrize("category", ["12x-4", "--4", "a"])
def test_a_category_that_is_no_value_of_the_key_is_refused(dlrm: Recipe, category: str) -> None:
    search = Search.model_validate({"parameters": [TOP | {"categorical_values": ["128-64", category]}]})
    with pytest.raises(ValueError, match=rf"sigopt.parameters.0 \(top\): categorical_values: '{category}' is not a value"):
        check_search(search, dlrm)
