"""Recipes: the catalog's are good, wrong ones are refused by file and key, overrides merge."""

from __future__ import annotations

from pathlib import Path

import pytest

from ml.catalog.load import CatalogError
from ml.catalog.spec import DatasetSpec
from ml.features.schema import FeatureSchema
from ml.models.build import build_bags
from ml.training.recipe import RECIPES, CollisionlessTable, HashedTable, Recipe, Schedule, load_recipe, merge


def test_every_dataset_has_a_recipe_that_fits_its_features(catalog: dict[str, DatasetSpec]) -> None:
    for spec in catalog.values():
        recipe = load_recipe(spec.recipe.name, spec.recipe.overrides)
        features = FeatureSchema.of(spec)
        bags = build_bags(recipe.model_copy(update={"seed": 1}), features)
        assert {config.name for config in bags.embedding_bag_configs()} == set(features.sparse)


def test_overrides_change_only_what_they_name() -> None:
    plain, other = (
        load_recipe("dlrm"),
        load_recipe("dlrm", {"tables": {"features": {"user": {"kind": "hashed", "rows": 100}}}, "seed": 3}),
    )
    assert other.tables.of("user") == HashedTable(kind="hashed", rows=100)
    assert other.tables.of("item") == plain.tables.default == other.tables.default == CollisionlessTable()
    assert other.model == plain.model
    assert other.seed == 3
    assert plain.fingerprint != other.fingerprint
    assert load_recipe("dlrm", {"checkpoint_minutes": 1}).fingerprint == plain.fingerprint


def test_merge_leaves_its_arguments_alone() -> None:
    base, overrides = {"a": {"x": 1, "y": 2}}, {"a": {"y": 3}}
    assert merge(base, overrides) == {"a": {"x": 1, "y": 3}}
    assert base == {"a": {"x": 1, "y": 2}}


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        ({"modle": {}}, "modle"),
        ({"model": {"embeding_dim": 8}}, "model.embeding_dim"),
        ({"model": {"embedding_dim": 6}}, "model.embedding_dim"),
        ({"model": {"top": []}}, "model.top"),
        ({"model": {"bottom": [0]}}, "model"),
        ({"tables": {"default": {"kind": "hashed", "rows": 2}}}, "tables.default.hashed.rows"),
        ({"tables": {"features": {"C1": {"row": 5}}}}, "tables.features.C1"),
        ({"tables": {"features": {"C1": {"kind": "static", "row": 5}}}}, "tables.features.C1.static.row"),
        ({"tables": {"default": {"kind": "collisionless", "window_seconds": 5}}}, "tables.default.collisionless"),
        ({"tables": {"default": {"kind": "static", "rows": 5}}, "table_optimizer": {"kind": "adam"}}, "(top)"),
        ({"table_optimizer": {"lr": -1}}, "table_optimizer.lr"),
        ({"table_optimizer": {"lr": float("nan")}}, "table_optimizer.lr"),
        ({"dense_optimizer": {"kind": "lion"}}, "dense_optimizer.kind"),
        ({"schedule": {"warm_up": 0.9, "decay_start": 0.5}}, "schedule"),
        ({"splits": ["trian"]}, "splits.0"),
        ({"batch_size": 0}, "batch_size"),
        ({"model": "dlrm"}, "model"),
    ],
)
def test_a_wrong_override_is_refused_with_its_key_path(overrides: dict[str, object], key: str) -> None:
    with pytest.raises(CatalogError) as refused:
        load_recipe("dlrm", overrides)
    assert f"recipe.overrides (on {RECIPES / 'dlrm.yaml'}): {key}: " in str(refused.value)


def test_a_wrong_file_is_refused_with_its_name_and_key_path(tmp_path: Path) -> None:
    text = (RECIPES / "dlrm.yaml").read_text()
    (tmp_path / "bad.yaml").write_text(text.replace("batch_size: 256", "batch_size: many"))
    with pytest.raises(CatalogError, match=r"bad\.yaml: batch_size: .*found 'many'"):
        load_recipe("bad", folder=tmp_path)
    with pytest.raises(CatalogError, match=r"none\.yaml: no such recipe; the recipes are \['bad'\]"):
        load_recipe("none", folder=tmp_path)


def test_a_recipe_survives_json() -> None:
    recipe = load_recipe("dlrm")
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_schedule_rises_stays_and_falls() -> None:
    schedule = Schedule(warm_up=0.1, decay_start=0.5, decay_to=0.2)
    factors = [schedule.factor(step, 1000) for step in range(1000)]
    assert factors[:100] == sorted(factors[:100])
    assert set(factors[100:500]) == {1.0}
    assert factors[500:] == sorted(factors[500:], reverse=True)
    assert factors[-1] == pytest.approx(0.2)
    assert all(0 < factor <= 1 for factor in factors)
    assert Schedule().factor(0, 1) == 1.0
