"""Parameters set recipe keys, and values of recipe keys are values of parameters."""

from __future__ import annotations

import pytest

from ml.recipes.assignments import as_category, with_assignments
from ml.recipes.recipe import Recipe, load_recipe
from tests.helpers.searches import BATCH, LR, SHORTCUT, TOP, UNITS, parameters


@pytest.fixture(scope="module")
def dlrm() -> Recipe:
    return load_recipe("dlrm")


def test_assignments_set_the_recipe_keys(dlrm: Recipe) -> None:
    found = with_assignments(
        dlrm, parameters(LR, BATCH, TOP, SHORTCUT), {"lr": 0.01, "batch": 512, "top": "512-256", "wide": "false"}
    )
    assert (found.dense_optimizer.lr, found.batch_size) == (0.01, 512)
    assert found.model.model_dump()["top"] == (512, 256)
    assert found.model.model_dump()["linear_shortcut"] is False


def test_a_parameter_can_set_an_item_of_a_list(dlrm: Recipe) -> None:
    assert with_assignments(dlrm, parameters(UNITS), {"units": 9}).model.model_dump()["top"] == (128, 9)


def test_an_absent_assignment_keeps_the_value(dlrm: Recipe) -> None:
    assert with_assignments(dlrm, parameters(LR, BATCH), {"batch": 128}).dense_optimizer == dlrm.dense_optimizer


@pytest.mark.parametrize(
    ("value", "text"), [([128, 64], "128-64"), ([], "none"), (True, "true"), (0.5, "0.5"), ("adam", "adam"), (3, "3")]
)
def test_values_as_categories(value: object, text: str) -> None:
    assert as_category(value) == text
