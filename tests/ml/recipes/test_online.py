"""The `online` section of a recipe: its defaults, and its separation from the daily training."""

from __future__ import annotations

import pytest

from ml.advisor.recipe_keys import of_recipe
from ml.artifacts.predictor import metadata_of
from ml.catalog.load import CatalogError
from ml.catalog.spec import DatasetSpec, ModelChoice
from ml.recipes.recipe import load_recipe
from ml.schema import FeatureSchema


def test_the_daily_model_does_not_depend_on_it() -> None:
    plain, other = load_recipe("dlrm"), load_recipe("dlrm", {"online": {"slices": 10}})
    schema = FeatureSchema((), ("user",), (), "f")
    assert plain.fingerprint == other.fingerprint
    assert plain.structure(["user"]) == other.structure(["user"])
    assert metadata_of(plain, schema) == metadata_of(other, schema)
    assert plain.online.fingerprint != other.online.fingerprint


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"slices": 0}, "online.slices"),
        ({"minutes": 0}, "online.minutes"),
        ({"base": "batch"}, "online.base"),
        ({"serve": "online"}, "online.serve"),
        ({"sync": {"rows": "int4"}}, "online.sync.rows"),
        ({"sync": {"dense_every": 5, "dense_hour": 3}}, "online: sync: expected dense_every or dense_hour"),
    ],
)
def test_invalid_keys_are_named(changes: dict[str, object], key: str) -> None:
    with pytest.raises(CatalogError, match=key.replace(".", r"\.")):
        load_recipe("dlrm", {"online": changes})


def test_what_is_served_is_no_key_of_a_recipe(catalog: dict[str, DatasetSpec]) -> None:
    """Advice and tuning change recipes, but the graph depends on what is served."""
    assert not any(of_recipe(key) for key in ("serve", "online.serve"))
    assert all(choice.serve == "daily" for spec in catalog.values() for choice in spec.models.values())
    assert ModelChoice.model_validate({"serve": "online"}).serve == "online"
