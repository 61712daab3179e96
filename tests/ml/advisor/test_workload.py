from __future__ import annotations

from dataclasses import replace

import numpy as np
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


@pytest.mark.parametrize("seed", range(10))
def test_distinct_ids_are_those_of_draws_from_the_frequencies(seed: int) -> None:
    generator = np.random.default_rng(seed)
    counts = generator.zipf(1.5, 3000).clip(max=10_000)  # of each id
    at_least = tuple(float((counts >= 2**k).sum()) for k in range(int(counts.max()).bit_length()))
    load = FeatureLoad(float(counts.sum()), len(counts), 0, at_least)
    lookups = int(generator.integers(50, 5000))
    drawn = [len(np.unique(generator.choice(len(counts), lookups, p=counts / counts.sum()))) for _ in range(5)]
    assert load.distinct(lookups) == pytest.approx(np.mean(drawn), rel=0.2)


@pytest.mark.parametrize("ids_by_count", [(), (1000.0, 400.0, 100.0, 5.0, 5.0, 1.0)])
def test_more_lookups_have_more_distinct_ids_up_to_all(ids_by_count: tuple[float, ...]) -> None:
    load, lookups = FeatureLoad(5000, 1000, 0, ids_by_count), np.geomspace(0.1, 1e9, 60)
    found = np.array([load.distinct(number) for number in lookups])
    assert (np.diff(found) >= 0).all() and (found <= np.minimum(lookups, 1000) + 1e-9).all()
    assert found[0] == pytest.approx(0.1, rel=0.01) and found[-1] == pytest.approx(1000)
    assert load.distinct(0) == 0 and FeatureLoad(0, 0, 0).distinct(10) == 0


def test_smaller_batches_update_more_rows() -> None:
    load = FeatureLoad(10_000, 500, 0, (500, 200, 80, 30, 10))
    workload = Workload(10_000, 2500, {"user": load})
    recipes = [load_recipe("dlrm", {"batch_size": size}) for size in (100, 1000, 10_000)]
    found = [workload.updated_rows(recipe, "user") for recipe in recipes]
    assert 10_000 > found[0] > found[1] > found[2] and [workload.steps(recipe) for recipe in recipes] == [100, 10, 1]
    assert (
        workload.updated_rows(recipes[0], "unknown") == 0
        and Workload(0, 0, {"user": load}).updated_rows(recipes[0], "user") == 0
    )
