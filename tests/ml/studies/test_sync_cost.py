"""The study of what synchronisation costs, on made days, and a package of the paper's kind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ml.lake import Lake
from ml.recipes.online import SyncRecipe
from ml.recipes.recipe import Recipe
from ml.studies.paper_package import paper_package
from ml.studies.sync_cost import Variant, rows_of_table, run_study, summary, variants, write_study
from tests.helpers.training_days import made_spec, small_recipe, write_days


def recipe(seed: int) -> Recipe:
    return small_recipe(seed=seed, dense_optimizer={"lr": 0.01})


def test_every_variant_differs_from_the_first_in_one_thing() -> None:
    first, *others = variants()
    assert first.sync == SyncRecipe() and first.slices == 50
    for other in others:
        changed = {name for name, value in other.sync.model_dump().items() if value != first.sync.model_dump()[name]}
        assert len(changed) + (other.slices != first.slices) == 1, other.name


def test_bytes_follow_the_cadence_the_format_the_dense_part_and_the_budget(lake: Lake, tmp_path: Path) -> None:
    spec = made_spec()
    days = write_days(lake, spec, 4, 600)
    runs = run_study(spec, lake, days[:2], days[2:], recipe, list(variants([3, 6, 12], [2048])), seeds=2)
    found = {of["name"]: of for of in write_study(tmp_path, runs, [paper_package("int8", 100, 8)])}
    base = found["6 slices, float32, dense part in all"]
    assert base["auc_gain"] is None and base["pending"] == 0
    assert found["3 slices"]["bytes_per_day"] < base["bytes_per_day"] < found["12 slices"]["bytes_per_day"]
    assert found["int8"]["bytes_per_row"] == found["float16"]["bytes_per_row"] < base["bytes_per_row"], "rows have 4 weights"
    assert found["dense part never"]["dense_share"] == 0 < found["dense part once a day"]["dense_share"] < base["dense_share"]
    budget = found["at most 2.048 kB of rows"]
    assert budget["bytes_per_sync"] < base["bytes_per_sync"] and budget["pending"] > 0
    stored = json.loads((tmp_path / "summary.json").read_text())
    assert stored["variants"] == list(found.values()) and stored["paper"][0]["arithmetic"] == 3200
    assert len(rows_of_table(list(found.values()))) == len(found) == 9
    assert (tmp_path / "auc.png").read_bytes().startswith(b"\x89PNG")


def test_a_variant_without_the_dense_part_predicts_otherwise(lake: Lake) -> None:
    spec = made_spec()
    days = write_days(lake, spec, 3, 600)
    ways = [Variant("base", "all", 3, SyncRecipe()), Variant("dense part", "never", 3, SyncRecipe(dense_every=0))]
    whole, rows = run_study(spec, lake, days[:2], days[2:], recipe, ways, seeds=1)
    (labels, one), (same, other) = (run.predictions[days[2]] for run in (whole, rows))
    assert (labels == same).all() and (one[:200] == other[:200]).all() and (one[200:] != other[200:]).any()
    assert rows.dense_bytes == 0 < whole.dense_bytes and rows.rows == whole.rows
    assert summary([whole, rows])[1]["auc_gain"]["value"] == pytest.approx(rows.auc - whole.auc, abs=1e-9)
