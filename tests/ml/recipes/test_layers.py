"""The recipe of a day: precedence of its layers, origins of its values, and its structure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ml.catalog.load import load_dataset
from ml.catalog.spec import DatasetSpec
from ml.recipes.edits import flat
from ml.recipes.layers import Layer, compose, keep_structure
from ml.recipes.recipe import Recipe, load_recipe, merge
from tests.helpers.paths import ROOT

SPARSE = ["user", "item"]


@pytest.fixture
def spec(tmp_path: Path) -> DatasetSpec:
    entry = yaml.safe_load((ROOT / "catalog" / "criteo.yaml").read_text())
    entry["models"] = {"dlrm": {"overrides": {"seed": 5, "threads": 2}}}
    entry["recipe"] = {"overrides": {"seed": 4, "batch_size": 100}}
    (tmp_path / "criteo.yaml").write_text(yaml.safe_dump(entry))
    (tmp_path / "recipes" / "criteo").mkdir(parents=True)
    (tmp_path / "recipes" / "criteo" / "dlrm.yaml").write_text("training: {threads: 3, label_smoothing: 0.1}")
    return load_dataset(tmp_path / "criteo.yaml")


def test_later_layers_take_precedence_and_every_value_has_an_origin(spec: DatasetSpec) -> None:
    advice = [Layer("advice, batch", {"batch_size": 64, "precision": "bfloat16"}), Layer("advice, x", {"threads": 9})]
    tuned = [Layer("tuned", {"dense_optimizer": {"lr": 0.02}, "seed": 6})]
    found = compose(spec, "dlrm", advice, tuned)
    recipe, origins = found.recipe, found.origins
    assert (recipe.batch_size, recipe.seed, recipe.threads, recipe.precision) == (100, 6, 3, "bfloat16")
    assert origins["batch_size"] == "catalog entry, recipe.overrides"
    assert origins["seed"] == origins["dense_optimizer.lr"] == "tuned"
    assert origins["threads"] == "edits, criteo/dlrm.yaml"
    assert origins["precision"] == "advice, batch"
    assert origins["model.embedding_dim"] == "recipe dlrm"
    assert origins["early_stop"] == "default"
    assert origins.keys() == flat(recipe.model_dump(mode="json")).keys()


def test_what_edits_replace_is_listed(spec: DatasetSpec) -> None:
    found = compose(spec, "dlrm", [Layer("advice, smooth", {"label_smoothing": 0.2})])
    listed = {each.key: (each.value, each.origin, each.by) for each in found.overrode}
    assert listed == {
        "threads": (2, "catalog entry, models.dlrm.overrides", 3),
        "label_smoothing": (0.2, "advice, smooth", 0.1),
    }


def test_ranges_of_every_layer_are_expanded(spec: DatasetSpec) -> None:
    table = {"kind": "static", "rows": 8}
    advice = [
        Layer("advice, tables", {"tables": {"features": {"C{1..3}": table}}}),
        Layer("advice, more", {"tables": {"features": {"C{3..4}": {"kind": "hashed", "rows": 9}}}}),
    ]
    found = compose(spec, "dlrm", advice)
    kinds = {name: table.kind for name, table in found.recipe.tables.features.items()}
    assert kinds == {"C1": "static", "C2": "static", "C3": "hashed", "C4": "hashed"}
    assert found.origins["tables.features.C3.rows"] == "advice, more"


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        ({"seed": 3, "dense_optimizer": {"lr": 0.5}}, set()),
        ({"model": {"embedding_dim": 32, "dropout": 0.1}}, {"model.embedding_dim"}),
        ({"model": {"top": [7]}, "batch_size": 7}, {"model.top"}),
        ({"tables": {"default": {"min_count": 3}}}, set()),
        (
            {"tables": {"default": {"min_count": 3}, "features": {"user": {"kind": "static", "rows": 8}}}},
            {"tables.features.user.kind", "tables.features.user.rows"},
        ),
        ({"dense_optimizer": {"kind": "adagrad", "weight_decay": 0.5}}, {"dense_optimizer.kind"}),
        ({"exclude_features": ["user"]}, {"exclude_features"}),
    ],
)
def test_a_change_of_structure_is_refused_by_key_and_the_rest_applies(change: dict[str, Any], refused: set[str]) -> None:
    present = load_recipe("dlrm")
    wanted = Recipe.model_validate(merge(present.model_dump(mode="json"), change))
    found = keep_structure(wanted, present, SPARSE)
    assert found.refused.keys() == refused
    assert found.recipe.structure(SPARSE) == present.structure(SPARSE)
    kept = flat(found.recipe.model_dump(mode="json"))
    assert all(
        kept[key] == value for key, value in flat(wanted.model_dump(mode="json")).items() if key in kept.keys() - refused
    )


def test_removed_keys_that_are_kept_are_refused(spec: DatasetSpec) -> None:
    tables = {
        "default": {"min_count": 3},
        "features": {"user": {"kind": "static", "rows": 8}, "item": {"kind": "collisionless", "min_count": 2}},
    }
    present = load_recipe("dlrm", {"tables": tables})
    wanted = load_recipe("dlrm", {"tables": {"default": {"min_count": 3}}})
    found = keep_structure(wanted, present, SPARSE)
    assert dict(found.refused) == {"tables.features.user": None}, "the removal for `item` keeps the structure, so it applies"
    assert found.recipe.tables.features.keys() == {"user"}
    other_kind = load_recipe("dlrm", {"tables": {"default": {"min_count": 3}, "features": {"user": {"kind": "collisionless"}}}})
    assert keep_structure(other_kind, present, SPARSE).refused.keys() >= {"tables.features.user.kind"}
