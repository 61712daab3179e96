"""The advisor's study: our runs are replays, exchanged runs differ in one thing, and all cases run end to end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ml.advisor.hardware import Hardware
from ml.lake import Lake
from ml.recipes.recipe import recipe_of
from ml.studies.advisor import Study, run_study, train_ours, with_advised_model, with_original_model, write_study
from ml.studies.original_dlrm import Settings, reference_features
from ml.training.replay import replay
from tests.helpers.entries import untuned_criteo
from tests.helpers.training_days import made_spec, small_recipe, write_days

MACHINE = Hardware("a processor", cores=2.0, memory=8 << 30)


def test_our_run_is_a_replay_with_evaluations(lake: Lake) -> None:
    spec, recipe = made_spec(), small_recipe()
    days = write_days(lake, spec, 3, 320)
    run = train_ours("ours", spec, days, lake, recipe, evaluations=2)
    replayed = replay(spec, days, lake, recipe, train_last=False).days
    assert run.by_day == {day.day: day.scores["auc"] for day in replayed if day.scores}, "evaluations change nothing"
    assert run.end.auc == run.by_day[days[2]] and run.end.rows == 640 and len(run.curve) == 4


def test_only_the_model_is_exchanged() -> None:
    spec = untuned_criteo()
    recipe = recipe_of(spec, "dlrm", {"batch_size": 512})
    found = with_original_model(spec, recipe)
    assert [f.name for f in spec.sparse if f.name not in found.exclude_features] == reference_features(spec)
    model = found.model.model_dump()
    assert (model["embedding_dim"], model["bottom"], model["top"]) == (16, (512, 256, 64), (512, 256))
    same = {"model", "exclude_features"}
    assert found.model_dump(exclude=same) == recipe.model_dump(exclude=same)
    settings = with_advised_model(Settings(table_lr=0.3), recipe)
    assert (settings.bottom, settings.top, settings.linear_shortcut) == ((64,), (128, 64), True)
    assert (settings.batch_size, settings.table_lr) == (128, 0.3)


@pytest.mark.slow
def test_all_cases_run_on_the_same_rows(lake: Lake, tmp_path: Path) -> None:
    spec, told = made_spec(), list[str]()
    days = tuple(write_days(lake, spec, 4, 320))
    study = Study(spec, days, lake, tmp_path / "tuning", observations=2, evaluations=2)
    cases = run_study(study, told.append, MACHINE)
    assert {run.end.rows for run in cases.runs.values()} == {960}
    assert {case: len(trials) for case, trials in cases.tunings.items()} == {"wide": 2, "advised": 2, "our_trainer": 2}
    assert set(cases.runs) >= {"original", "advised", "our_trainer", "advised_model", "tuned_original", "tuned_advised"}
    assert len(told) == len(cases.runs) + 6
    found = write_study(tmp_path, cases)
    assert json.loads((tmp_path / "summary.json").read_text()) == found and (tmp_path / "auc.png").stat().st_size > 1000


def test_too_few_days_are_refused(lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least four"):
        run_study(Study(made_spec(), ("2026-01-01",), lake, tmp_path), hardware=MACHINE)
