"""The catalog's recipes are valid, invalid recipes are refused with file and key, and overrides are merged."""

from __future__ import annotations

from pathlib import Path

import pytest

from ml.catalog.load import CatalogError
from ml.catalog.reference import reachable
from ml.catalog.spec import DatasetSpec
from ml.embeddings.interface import bags_of
from ml.models.build import build_model
from ml.recipes.optimizers import Schedule
from ml.recipes.recipe import RECIPES, Recipe, load_recipe, merge, recipe_of, retrieval_model
from ml.recipes.tables import CollisionlessTable, HashedTable
from ml.schema import FeatureSchema


def test_every_dataset_has_a_recipe_that_fits_its_features(catalog: dict[str, DatasetSpec]) -> None:
    for spec, model in ((entry, model) for entry in catalog.values() for model in entry.models):
        recipe = recipe_of(spec, model)
        features = FeatureSchema.of(spec)
        read = {
            feature
            for bags in bags_of(build_model(recipe, features)).values()
            for config in bags.embedding_bag_configs()
            for feature in config.feature_names
        }
        assert read == set(features.sparse) - set(recipe.exclude_features)


def test_every_dataset_with_items_has_two_towers_beside_its_ranking_model(catalog: dict[str, DatasetSpec]) -> None:
    found = {spec.name: retrieval_model(spec) for spec in catalog.values()}
    assert found == {"criteo": None, "globo": "two_tower", "movielens": "two_tower", "synthetic": "two_tower"}
    assert all(spec.primary == "dlrm" for spec in catalog.values())


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
    assert load_recipe("dlrm", {"checkpoints": {"minutes": 1}}).fingerprint == plain.fingerprint


def test_merge_leaves_its_arguments_alone() -> None:
    base, overrides = {"a": {"x": 1, "y": 2}}, {"a": {"y": 3}}
    assert merge(base, overrides) == {"a": {"x": 1, "y": 3}}
    assert base == {"a": {"x": 1, "y": 2}}


def of_x(table: dict[str, object]) -> dict[str, object]:
    return {"tables": {"features": {"x": table}}}


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        ({"modle": {}}, "modle"),
        ({"model": {"embeding_dim": 8}}, "model.dlrm.embeding_dim"),
        ({"model": {"embedding_dim": 6}}, "model.dlrm.embedding_dim"),
        ({"model": {"top": []}}, "model.dlrm.top"),
        ({"model": {"bottom": [0]}}, "model.dlrm.bottom.0"),
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
        (of_x({"min_count": 3}), "tables.features.x"),
        (of_x({"kind": "collisionless", "ttl_seconds": 1e300}), "tables.features.x.collisionless.ttl_seconds"),
        (of_x({"kind": "collisionless", "min_count": 2**40}), "tables.features.x.collisionless.min_count"),
        (
            {"tables": {"features": {"x": {"kind": "compositional", "rows": 1000, "universe": 9, "parts": 3}}}},
            "tables.features.x.compositional",
        ),
        (
            {"tables": {"features": {"x": {"kind": "compositional", "rows": 90, "family": "hash", "operation": "project"}}}},
            "(top)",
        ),
        ({"early_stop": {"target": 0.7}}, "(top)"),
        ({"early_stop": {"target": 7}, "splits": ["train"]}, "early_stop"),
        ({"batch_size": 0}, "batch_size"),
        ({"model": "dlrm"}, "model"),
    ],
)
def test_a_wrong_override_is_refused_with_its_key_path(overrides: dict[str, object], key: str) -> None:
    with pytest.raises(CatalogError) as refused:
        load_recipe("dlrm", overrides)
    assert f"recipe.overrides (on {RECIPES / 'dlrm.yaml'}): {key}: " in str(refused.value)


@pytest.mark.parametrize(
    "overrides", [{"sampling_correction": True}, {"label_smoothing": 0.1}, {"tables": {"init_scale": 0}}], ids=str
)
def test_what_two_towers_would_pass_over_is_refused(overrides: dict[str, object]) -> None:
    with pytest.raises(CatalogError, match=next(iter(overrides))):
        load_recipe("two_tower", overrides)
    load_recipe("dlrm", overrides)
    if "tables" not in overrides:
        load_recipe("two_tower", overrides | {"model": {"loss": "pointwise"}})


def test_a_wrong_file_is_refused_with_its_name_and_key_path(tmp_path: Path) -> None:
    text = (RECIPES / "dlrm.yaml").read_text()
    (tmp_path / "bad.yaml").write_text(text.replace("batch_size: 256", "batch_size: many"))
    with pytest.raises(CatalogError, match=r"bad\.yaml: batch_size: .*found 'many'"):
        load_recipe("bad", folder=tmp_path)
    with pytest.raises(CatalogError, match=r"none\.yaml: no such recipe; the recipes are \['bad', 'dcn_v2', "):
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
    assert Schedule().factor(0, 1) == Schedule().factor(7, 5) == 1.0
    assert schedule.factor(5000, 1000) == schedule.factor(999, 1000), "past the end as at the end"


def test_a_recipe_that_extends_another_says_its_model_whole(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: dlrm\nmodel: {kind: deepfm, embedding_dim: 8, deep: [4]}\nbatch_size: 7")
    mine, base = load_recipe("mine", folder=tmp_path), load_recipe("dlrm")
    assert mine == base.model_copy(update={"model": mine.model, "batch_size": 7})
    assert mine.model.model_dump() == {"kind": "deepfm", "embedding_dim": 8, "deep": (4,), "dropout": 0.0}
    (tmp_path / "dlrm.yaml").write_text("extends: dlrm\nseed: 9")
    assert load_recipe("dlrm", folder=tmp_path).seed == 9, "the one beside it is itself: the built-in one is meant"
    for name, text in (("one", "extends: two"), ("two", "extends: one")):
        (tmp_path / f"{name}.yaml").write_text(text)
    with pytest.raises(CatalogError, match=r"one\.yaml: extends: the recipes \['one', 'two'\] extend each other in a cycle"):
        load_recipe("one", folder=tmp_path)
    (tmp_path / "three.yaml").write_text("extends: nobody")
    with pytest.raises(CatalogError, match=r"three\.yaml: extends: .*nobody\.yaml: no such recipe; the recipes are"):
        load_recipe("three", folder=tmp_path)


def test_what_may_change_while_a_model_lives_is_no_part_of_its_structure() -> None:
    """A table that is named explicitly equals the default one; learning rates and expiry do not count."""
    plain = load_recipe("dlrm")
    said = {"tables": {"features": {"x": {"kind": "collisionless", "ttl_seconds": 600}}}, "table_optimizer": {"lr": 0.01}}
    assert load_recipe("dlrm", said).structure(["x", "y"]) == plain.structure(["x", "y"])
    for other in ({"kind": "collisionless", "filter": "probabilistic"}, {"kind": "hashed", "rows": 9}):
        assert load_recipe("dlrm", {"tables": {"features": {"x": other}}}).structure(["x"]) != plain.structure(["x"])


def test_one_generalised_part_is_one_partition() -> None:
    table = {"kind": "compositional", "family": "generalised", "parts": 1, "rows": 1000, "universe": 100}
    assert load_recipe("dlrm", {"tables": {"default": table}}).tables.default.partitions.sizes == (1000,)


def test_ranges_name_many_tables_and_features() -> None:
    small = {"kind": "hashed", "rows": 100}
    recipe = load_recipe("dlrm", {"tables": {"features": {"C{1..3}": small}}, "exclude_features": ["C{4..5}", "I1"]})
    assert recipe.exclude_features == ("C4", "C5", "I1")
    assert {name: table.kind for name, table in recipe.tables.features.items()} == dict.fromkeys(("C1", "C2", "C3"), "hashed")
    assert load_recipe("dlrm", {"export": {"tables": {"C{1..2}": "float16"}}}).export.tables == {
        "C1": "float16",
        "C2": "float16",
    }
    for wrong, key in (
        ({"tables": {"features": {"C{1..3}": small, "C2": small}}}, r"tables\.features: 'C2' is named more than once"),
        ({"exclude_features": ["C{3..1}"]}, r"exclude_features: .*expected an ascending range"),
        ({"exclude_features": "C{1..3}"}, r"exclude_features: expected a list"),
    ):
        with pytest.raises(CatalogError, match=key):
            load_recipe("dlrm", wrong)


def test_every_key_of_a_recipe_is_described() -> None:
    found = [f"{m.__name__}.{k}" for m in reachable(Recipe) for k, field in m.model_fields.items() if not field.description]
    assert not found
