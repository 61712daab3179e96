"""The study of negative sampling: its variants, and summaries that are taken seed by seed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ml.lake import Lake
from ml.recipes.recipe import recipe_of
from ml.studies.negative_sampling import ALL_ROWS, Run, run_study, summary, variants, write_study
from tests.helpers.training_days import made_spec, write_days

SMALL = {"model": {"embedding_dim": 4, "bottom": [8], "top": [8]}, "batch_size": 64, "dense_optimizer": {"lr": 0.02}}


def test_every_variant_is_a_recipe() -> None:
    found = list(variants())
    assert len({(of.name, of.keep) for of in found}) == len(found) == 19
    for variant in found:
        recipe = recipe_of(made_spec(), "dlrm", variant.keys)
        assert (recipe.negative_sampling is None) == (variant.name == ALL_ROWS)


@pytest.mark.slow
def test_naive_models_predict_too_much_and_corrected_ones_do_not(lake: Lake, tmp_path: Path) -> None:
    spec = made_spec()
    spec = spec.model_copy(update={"recipe": spec.recipe.model_copy(update={"overrides": SMALL})})
    days = write_days(lake, spec, 3, 4000)
    runs = run_study(spec, days, lake, seeds=2, shares=[0.1])
    assert len(runs) == 14 and all(run.rows == 8000 for run in runs)
    found = {of["name"]: of for of in write_study(tmp_path, runs)}
    assert found["naive"]["calibration"] > 1.3
    for name in ("corrected in the loss", "corrected at serving", "weighted", "by score, corrected in the loss"):
        assert found[name]["calibration"] == pytest.approx(1, abs=0.15), name
        assert found[name]["log_loss"] < found["naive"]["log_loss"], name
    assert json.loads((tmp_path / "summary.json").read_text()) == list(found.values())
    assert (tmp_path / "log_loss.png").read_bytes().startswith(b"\x89PNG")


def test_differences_are_taken_seed_by_seed() -> None:
    def run(name: str, keep: float, seed: int, auc: float) -> Run:
        return Run(name, keep, seed, auc, 1 - auc, 1.0, rows=1, cpu_seconds=1.0)

    runs = [run(ALL_ROWS, 1, 0, 0.8), run("naive", 0.1, 0, 0.7), run(ALL_ROWS, 1, 1, 0.6), run("naive", 0.1, 1, 0.5)]
    naive = summary(runs)[1]
    assert naive["auc_gain"] == pytest.approx(-0.1) and naive["auc_gain_spread"] == pytest.approx(0, abs=1e-12)
    assert naive["log_loss_gain"] == pytest.approx(-0.1)
