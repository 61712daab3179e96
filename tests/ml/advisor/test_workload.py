from __future__ import annotations

from dataclasses import replace

import pytest

from ml.advisor.workload import FeatureLoad, Workload
from ml.catalog.load import load_catalog
from ml.recipes.recipe import load_recipe
from tests.helpers.feature_profiles import DAYS, profile_of, sparse_profile

SPEC = load_catalog()["criteo"]


def test_a_workload_is_the_day_after_the_profile() -> None:
    profile = profile_of(SPEC, 1000, sparse={"C1": sparse_profile(200, 4000, singles=0.5, growth=0.25)})
    workload = Workload.of(profile)
    assert (workload.rows, workload.positives) == (1000, 250)
    load = workload.features["C1"]
    assert (load.lookups, load.ids, load.new) == (4000 / DAYS, 250, 50)
    assert load.at_least(1) == 250 and load.at_least(2) == 100


def test_after_one_day_new_ids_are_estimated_from_those_seen_once() -> None:
    profile = profile_of(SPEC, 1000, sparse={"C1": sparse_profile(200, 1000, singles=0.5, days=1)})
    load = Workload.of(replace(profile, days=profile.days[:1])).features["C1"]
    assert load.new == 1000 * 100 / 1000 and load.ids == 300


@pytest.mark.parametrize(("count", "ids"), [(1, 100), (2, 60), (3, 45), (4, 30), (6, 15), (8, 0), (100, 0)])
def test_ids_by_count_are_interpolated(count: int, ids: float) -> None:
    assert FeatureLoad(0, 100, 0, ids_by_count=(100, 60, 30)).at_least(count) == pytest.approx(ids)


def test_admission_and_caps_reduce_the_rows_of_a_table() -> None:
    workload = Workload(10, 5, {"C1": FeatureLoad(10, 100, 40, (100, 60, 30))})
    for table, rows, new in (({}, 100, 40), ({"min_count": 2}, 60, 24), ({"max_rows": 50}, 50, 20)):
        recipe = load_recipe("dlrm", {"tables": {"features": {"C1": {"kind": "collisionless", **table}}}})
        assert (workload.table_rows(recipe, "C1"), workload.new_rows(recipe, "C1")) == (rows, new)
    static = load_recipe("dlrm", {"tables": {"features": {"C1": {"kind": "static", "rows": 32}}}})
    assert workload.table_rows(static, "C1") == 0


def test_a_softmax_looks_up_clicked_rows_and_uniform_negatives() -> None:
    recipe = load_recipe("two_tower", {"batch_size": 100, "model": {"uniform_negatives": 10}})
    workload = Workload(1000, 200, {"user": FeatureLoad(1000, 50, 0), "item": FeatureLoad(1000, 50, 0)})
    assert workload.model_rows(recipe) == 200
    assert (workload.lookups(recipe, "user"), workload.lookups(recipe, "item")) == (200, 300)


def test_a_profile_without_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="has no rows"):
        Workload.of(profile_of(SPEC, 0))
