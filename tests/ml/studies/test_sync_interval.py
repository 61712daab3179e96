"""The study of the sync interval on made days: the ways, their summary, and that no way has seen what it predicts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ml.compute.runner import LocalRunner
from ml.datasets.write import write_day
from ml.lake import Lake
from ml.recipes.recipe import Recipe, load_recipe
from ml.studies.ranked_ways import ranking_rows, sources
from ml.studies.sync_interval import RETRAINED, STALE, Served, by_time, rows_of_table, run_study, summary, write_study
from tests.helpers.kiosk_days import DAYS, kiosk, kiosk_day, put_features
from tests.helpers.training_days import made_spec, small_recipe, write_days


def recipe(seed: int) -> Recipe:
    return small_recipe(seed=seed, dense_optimizer={"lr": 0.01})


def test_every_way_predicts_the_same_rows_and_is_reproduced(lake: Lake, tmp_path: Path) -> None:
    spec = made_spec()
    days = write_days(lake, spec, 4, 600)
    found, again = (run_study(spec, lake, days[:2], days[2:], recipe, [2, 6], seeds=2) for _ in range(2))
    ways = [STALE, RETRAINED, "online, 2 slices", "online, 6 slices"]
    assert [(one.way, one.seed) for one in found] == [(way, seed) for seed in range(2) for way in ways]
    for one, other in zip(found, again, strict=True):
        assert list(one.predictions) == days[2:] and one.nbytes == other.nbytes
        for day in days[2:]:
            assert all(np.array_equal(a, b) for a, b in zip(one.predictions[day], other.predictions[day], strict=True))
            assert np.array_equal(one.predictions[day][0], found[0].predictions[day][0])
    assert found[0].nbytes == 0 < found[2].nbytes < found[3].nbytes
    result = write_study(tmp_path, found)
    assert list(result) == ways and json.loads((tmp_path / "summary.json").read_text())["ways"] == result
    assert len(by_time(found, 4)[STALE][0]) == 8 and len(rows_of_table(result)) == 4
    assert (tmp_path / "auc.png").read_bytes().startswith(b"\x89PNG")


def test_the_first_slice_is_predicted_by_the_model_after_the_batch_days(lake: Lake) -> None:
    spec = made_spec()
    days = write_days(lake, spec, 3, 600)
    found = {one.way: one.predictions[days[2]][1] for one in run_study(spec, lake, days[:2], days[2:], recipe, [3], seeds=1)}
    stale, online = found[STALE], found["online, 3 slices"]
    np.testing.assert_allclose(online[:200], stale[:200], rtol=1e-5)
    np.testing.assert_allclose(found[RETRAINED], stale, rtol=1e-6)
    assert np.abs(online[200:] - stale[200:]).max() > 1e-4


def test_gains_are_paired_by_seed_and_the_gap_is_that_of_the_stale_model() -> None:
    labels = np.tile([0.0, 1.0], 200).astype(np.float32)
    scores = np.random.default_rng(0).random(400).astype(np.float32)

    def served(way: str, seed: int, lift: float) -> Served:
        return Served(way, seed, {"d": (labels, scores + np.float32(lift + seed) * labels)})

    found = [served(way, seed, lift) for seed in range(2) for way, lift in ((STALE, 0.1), (RETRAINED, 0.2), ("online", 0.3))]
    result = summary(found, oracle=1.0)
    assert result["online"]["over_stale"]["value"] > result["online"]["over_retrained"]["value"] > 0
    assert result[RETRAINED]["gap_closed"] == pytest.approx(
        (result[RETRAINED]["auc"] - result[STALE]["auc"]) / (1 - result[STALE]["auc"])
    )
    assert result[STALE]["over_stale"] is None and result[RETRAINED]["over_retrained"] is None
    more = summary([*found, *(served("more", seed, 0.35) for seed in range(2))])
    gain = more["more"]["over_fewer_slices"]
    assert gain["value"] == pytest.approx(more["more"]["over_stale"]["value"] - more["online"]["over_stale"]["value"], abs=1e-3)
    assert all(more[way]["over_fewer_slices"] is None for way in (STALE, RETRAINED, "online"))
    low, high = gain["interval"]
    assert rows_of_table(more)[3][4] == f"{gain['value']:+.4f} ± {(high - low) / 2:.4f}"


def test_every_way_ranks_the_same_clicks(lake: Lake, tmp_path: Path) -> None:
    spec = kiosk()
    for day in DAYS:
        put_features(lake, spec, day, kiosk_day(spec, day))
        write_day(spec, day, lake, LocalRunner())

    def towers(seed: int) -> Recipe:
        model = {"user": ["user", "place", "history"], "item": ["item", "clicks_1h"], "uniform_negatives": 8, "hidden": [8]}
        tables = {"features": {"history": {"kind": "shared", "of": "item"}}}
        rates = {"batch_size": 32, "online": {"batch_size": 8, "learning_rate": 5.0}, "seed": seed}
        return load_recipe("two_tower", {"model": model, "tables": tables, **rates})

    found = run_study(spec, lake, DAYS[:1], DAYS[1:], towers, [4], seeds=2)
    assert found[0].ranked[DAYS[1]].sources and not found[1].ranked[DAYS[1]].sources
    one = [served.ranked[DAYS[1]].models["online"].ranks for served in found]
    np.testing.assert_array_equal(one[0], one[1], "both are the model after the first day")
    assert (one[2] != one[0]).any()
    result = write_study(tmp_path, found, spec=spec)
    online, stale = result["online, 4 slices"]["ranking"], result[STALE]["ranking"]
    assert online["requests"] == 600 and online["true_times"] and online["filled_in_times"]
    ranks = [served.ranked[day].models["online"].ranks for served in (found[2], found[5]) for day in DAYS[1:]]
    expected = np.mean([((of >= 0) & (of < 20)).mean() for of in ranks])
    assert online["recall@20"]["value"] == pytest.approx(expected)
    gain = online["mrr@20"]["over_stale"]
    assert gain["value"] == pytest.approx(online["mrr@20"]["value"] - stale["mrr@20"]["value"], rel=0.05)  # days have weights
    assert gain["error"] > 0
    assert stale["mrr@20"]["over_stale"] is None
    assert stale["mrr@20"]["over_retrained"]["value"] == -result[RETRAINED]["ranking"]["mrr@20"]["over_stale"]["value"]
    rows = ranking_rows({way: of["ranking"] for way, of in result.items()}, sources(spec, found[0].ranked))
    assert [row[0] for row in rows] == [*result, "popularity_60m", "popularity_20m", "co_visitation"]
    assert {len(row) for row in rows} == {10} and rows[2][8] == f"{online['true_times']:.4f}"
    assert (tmp_path / "recall.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "summary.json").read_text())["sources"]["popularity_60m"]["recall@20"] > 0
