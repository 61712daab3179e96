"""Scores by bit vectors equal LightGBM's, bit by bit."""

from __future__ import annotations

import lightgbm as lgb
import numpy as np
import pytest

from ml.models.lambdarank import LambdaRank
from ml.models.tree_scores import BITS, TreeScores


def booster(leaves: int, missing: float, trees: int = 20, categories: bool = False, **options: object) -> lgb.Booster:
    rng = np.random.default_rng(leaves)
    rows = rng.normal(size=(3000, 6)).round(2).astype(np.float32)
    target = rows[:, 0] * rows[:, 1] + rows[:, 2] + rng.normal(size=len(rows))
    rows[rng.random(rows.shape) < missing] = np.nan
    target += 3 * np.isnan(rows[:, 3])
    if categories:
        rows[:, 5] = rng.integers(0, 9, len(rows))
        target += rows[:, 5] % 3
    given = {"num_leaves": leaves, "min_data_in_leaf": 5, "verbose": -1, "num_threads": 1, **options}
    data = lgb.Dataset(rows, target, categorical_feature=[5] if categories else "auto", params={"verbose": -1})
    return lgb.train(given, data, trees)


def asked(model: lgb.Booster) -> np.ndarray:
    """Rows around the thresholds of a model, and with missing and infinite values."""
    rng = np.random.default_rng(7)
    rows = rng.normal(size=(500, 6)).round(2).astype(np.float32)
    near = np.clip(model.trees_to_dataframe()["threshold"].dropna(), -9, 9).astype(np.float32)
    at = rng.random(rows.shape) < 0.5
    rows[at] = rng.choice(near, at.sum())
    rows[::3] = np.nextafter(rows[::3], np.float32(np.inf))
    rows[rng.random(rows.shape) < 0.1] = np.nan
    rows[rng.random(rows.shape) < 0.02] = np.inf
    rows[rng.random(rows.shape) < 0.02] = -np.inf
    return rows


@pytest.mark.parametrize("leaves", [2, 31, BITS])
@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_scores_are_those_of_lightgbm(leaves: int, missing: float) -> None:
    model = booster(leaves, missing)
    trees, rows = TreeScores.of(model.dump_model()), asked(model)
    assert trees is not None
    assert len(trees.missing) == (2 if missing else 1)
    np.testing.assert_array_equal(trees.scores(rows), np.asarray(model.predict(rows)))
    np.testing.assert_array_equal(trees.scores(rows[:1]), np.asarray(model.predict(rows[:1])))


def test_a_tree_that_is_a_single_leaf_adds_its_value() -> None:
    model = booster(31, 0.0, trees=3, min_data_in_leaf=10_000)
    trees, rows = TreeScores.of(model.dump_model()), asked(booster(31, 0.0))
    assert trees is not None and len(trees.column) == 0
    np.testing.assert_array_equal(trees.scores(rows), np.asarray(model.predict(rows)))


@pytest.mark.parametrize(
    ("leaves", "missing", "options"), [(BITS + 1, 0.0, {}), (8, 0.2, {"zero_as_missing": True}), (8, 0.0, {"categories": True})]
)
def test_other_trees_are_left_to_lightgbm(leaves: int, missing: float, options: dict[str, bool]) -> None:
    model, rows = booster(leaves, missing, **options), asked(booster(8, 0.0))
    assert TreeScores.of(model.dump_model()) is None
    ranker = LambdaRank(model.model_to_string())
    np.testing.assert_array_equal(ranker.scores(rows), np.asarray(model.predict(rows), np.float32))
