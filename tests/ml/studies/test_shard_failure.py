"""The study of a lost shard, on made days."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ml.lake import Lake
from ml.recipes.recipe import Recipe
from ml.studies.shard_failure import Run, by_time, paper_arithmetic, rows_of_table, run_study, summary, write_study
from tests.helpers.training_days import made_spec, small_recipe, write_days


def recipe(seed: int) -> Recipe:
    return small_recipe(seed=seed, dense_optimizer={"lr": 0.01}, table_optimizer={"lr": 0.1})


def test_more_is_lost_with_fewer_shards_and_longer_intervals(lake: Lake, tmp_path: Path) -> None:
    spec = made_spec()
    days = write_days(lake, spec, 4, 600)
    runs, again = (run_study(spec, lake, days[:2], days[2], days[3], recipe, [2, 8], [1, 30], 30, seeds=2) for _ in range(2))
    assert [(run.shards, run.interval) for run in runs[:5]] == [(0, 0), (2, 30), (2, 1), (8, 30), (8, 1)]
    assert all(np.array_equal(one.predictions, other.predictions) for one, other in zip(runs, again, strict=True))
    found = {(of["shards"], of["interval"]): of for of in write_study(tmp_path, runs)}
    assert found[2, 30]["lost"] > found[2, 1]["lost"] > found[8, 1]["lost"] > 0
    assert found[2, 30]["lost"] > found[8, 30]["lost"]
    assert found[2, 30]["expected"] == pytest.approx(found[2, 30]["day"]["value"] * 2 * 0.0001)
    stored = json.loads((tmp_path / "summary.json").read_text())
    assert stored["losses"] == list(found.values()) and stored["paper_result"]["users_per_loss"] == 15_000
    assert [row[:2] for row in rows_of_table(stored["losses"], 30)] == [["2", "24"], ["2", "0.8"], ["8", "24"], ["8", "0.8"]]
    assert (tmp_path / "auc.png").read_bytes().startswith(b"\x89PNG")


def test_only_rows_of_the_lost_shard_are_predicted_otherwise(lake: Lake) -> None:
    spec = made_spec()
    days = write_days(lake, spec, 4, 600)
    whole, lost = run_study(spec, lake, days[:2], days[2], days[3], recipe, [50], [6], 6, seeds=1)
    assert np.array_equal(whole.labels, lost.labels) and whole.first == 200
    changed = whole.predictions[:100] != lost.predictions[:100]
    assert 0 < changed.sum() < 100


def test_an_interval_of_more_than_a_day_is_refused(lake: Lake) -> None:
    with pytest.raises(ValueError, match="at most 6 slices, found 7"):
        run_study(made_spec(), lake, [], "", "", recipe, intervals=[1, 7], slices=6)


def test_differences_are_paired_by_seed_and_the_curve_is_of_the_longest_interval() -> None:
    rng = np.random.default_rng(0)
    labels = np.tile([0.0, 1.0], 200).astype(np.float32)
    scores = [rng.random(400).astype(np.float32) + np.float32(0.2 + 0.1 * seed) * labels for seed in range(2)]
    runs = []
    for seed in range(2):
        for shards, interval, worse in ((0, 0, 0.0), (4, 1, 0.0), (4, 2, 0.1)):
            runs.append(Run(shards, interval, seed, "d", labels, scores[seed] - np.float32(worse) * labels, 40, 1, 10))
    short, long = summary(runs)
    assert short["day"]["value"] == short["first"]["value"] == 0 > long["day"]["value"] and long["lost"] == 0.1
    curves = by_time(runs, 4)
    assert list(curves) == ["1 of 4 shards"] and max(curves["1 of 4 shards"][0]) < 0


def test_the_arithmetic_of_the_paper() -> None:
    found = paper_arithmetic()
    assert found["days_between_losses"] == pytest.approx(10) and found["share_of_users_per_day"] == pytest.approx(0.0001)
