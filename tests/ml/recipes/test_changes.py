"""A recipe that differs from the one that trained a day is named, with the command that trains again."""

from typing import Any

import pytest

from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.recipes.changes import RecipeChange, recipe_changes
from ml.recipes.recipe import recipe_of
from ml.stages import tuned_models

DAYS = ["2026-01-01", "2026-01-02", "2026-01-03"]


def train(lake: Lake, spec: DatasetSpec, days: list[str]) -> None:
    for model in spec.models:
        recipe = recipe_of(spec, model)
        for day in days:
            with lake.write(tuned_models(model), spec.name, day) as staging:
                manifest = {"recipe": recipe.model_dump(mode="json"), "recipe_fingerprint": recipe.fingerprint}
                lake.write_manifest(staging, manifest)


def changed(spec: DatasetSpec, overrides: dict[str, Any]) -> DatasetSpec:
    entry = spec.model_dump(mode="json", exclude_unset=True)
    entry["recipe"] = {"overrides": (entry.get("recipe") or {}).get("overrides", {}) | overrides}
    return DatasetSpec.model_validate(entry)


@pytest.fixture
def spec(catalog: dict[str, DatasetSpec]) -> DatasetSpec:
    """The built-in log with its first model alone."""
    entry = catalog["synthetic"].model_dump(mode="json", exclude_unset=True)
    return DatasetSpec.model_validate(entry | {"models": {"dlrm": entry["models"]["dlrm"]}})


def only(found: list[RecipeChange]) -> RecipeChange:
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize(
    ("overrides", "key", "from_scratch"),
    [
        ({"batch_size": 333}, "batch_size", False),
        ({"seed": 5}, "seed", False),
        ({"table_optimizer": {"lr": 0.5}}, "table_optimizer.lr", False),
        ({"export": {"layers": "int8"}}, "export.layers", False),
        ({"model": {"embedding_dim": 4}}, "model.embedding_dim", True),
        ({"exclude_features": ["user"]}, "exclude_features", True),
    ],
)
def test_each_kind_of_change_is_named(
    overrides: dict[str, Any], key: str, from_scratch: bool, spec: DatasetSpec, lake: Lake
) -> None:
    train(lake, spec, DAYS)
    found = only(recipe_changes(changed(spec, overrides), DAYS, lake))
    assert (found.model, found.days, found.from_scratch) == ("dlrm", tuple(DAYS), from_scratch)
    assert key in found.keys


def test_the_command_begins_with_the_first_day_that_differs(spec: DatasetSpec, lake: Lake) -> None:
    now = changed(spec, {"batch_size": 333})
    train(lake, spec, DAYS)
    train(lake, now, DAYS[:1])
    found = only(recipe_changes(now, DAYS, lake))
    assert found.days == tuple(DAYS[1:])
    assert found.describe(now, DAYS[-1]).endswith(
        "orchestration.replay synthetic --from 2026-01-02 --to 2026-01-03 --redo"
    ) and "2 days (batch_size)" in found.describe(now, DAYS[-1])
    wider = changed(spec, {"model": {"embedding_dim": 4}})
    assert "--from 2026-01-01 " in only(recipe_changes(wider, DAYS[1:], lake)).command(wider, DAYS[-1])


def test_a_key_that_earlier_versions_lacked_is_no_change_unless_it_is_set(spec: DatasetSpec, lake: Lake) -> None:
    recipe = recipe_of(spec, spec.primary).model_dump(mode="json")
    assert recipe.pop("early_stop") is None
    for model in spec.models:
        with lake.write(tuned_models(model), spec.name, DAYS[0]) as staging:
            lake.write_manifest(staging, {"recipe": recipe})
    assert recipe_changes(spec, DAYS, lake) == []
    now = changed(spec, {"early_stop": {"target": 0.9}, "splits": ["train"]})
    assert "early_stop.target" in only(recipe_changes(now, DAYS, lake)).keys


def test_the_same_recipe_and_other_checkpoints_are_no_change(spec: DatasetSpec, lake: Lake) -> None:
    train(lake, spec, DAYS[:2])
    assert recipe_changes(spec, DAYS, lake) == []
    assert recipe_changes(changed(spec, {"checkpoints": {"hours": 3}}), DAYS, lake) == []
