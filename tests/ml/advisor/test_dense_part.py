from __future__ import annotations

from typing import Any

import pytest

from ml.advisor.dense_part import dense_part
from ml.embeddings.interface import dense_parameters
from ml.models.build import build_model
from ml.recipes.recipe import load_recipe
from ml.schema import FeatureSchema

SCHEMA = FeatureSchema(dense=("age", "price"), single=("user", "item", "hour"), multi=("genres",), fingerprint="f")


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("dlrm", {}),
        ("dlrm", {"model": {"interaction": "cat", "linear_shortcut": False, "bottom": []}, "exclude_features": ["hour"]}),
        ("deepfm", {"model": {"deep": [32]}}),
        ("wide_deep", {"model": {"crosses": [["user", "item"]]}}),
        ("dcn_v2", {}),
        ("dcn_v2", {"model": {"low_rank": None, "structure": "parallel", "cross_layers": 3}}),
        ("two_tower", {"model": {"user": ["user", "age", "genres"], "item": ["item", "price"]}}),
        (
            "dlrm",
            {
                "tables": {
                    "features": {
                        "user": {"kind": "compositional", "family": "hash", "operation": "project", "rows": 100, "dim": 4}
                    }
                }
            },
        ),
    ],
)
def test_parameters_are_those_of_the_model(name: str, overrides: dict[str, Any]) -> None:
    recipe = load_recipe(name, overrides)
    built = sum(parameter.numel() for _, parameter in dense_parameters(build_model(recipe, SCHEMA)))
    assert dense_part(recipe, SCHEMA).parameters == built


def test_flops_count_three_products_of_each_layer() -> None:
    recipe = load_recipe("deepfm", {"model": {"deep": [10], "embedding_dim": 4}})
    schema = FeatureSchema(dense=(), single=("user", "item"), multi=(), fingerprint="f")
    assert dense_part(recipe, schema).flops == 2 * 3 * (8 * 10 + 10 * 1)
