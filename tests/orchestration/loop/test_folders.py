"""Folders of a loop: what its arms share, and what they do not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ml.loop.settings import DATASET, FROZEN, ONLINE, Settings
from orchestration.loop.folders import Folders

SETTINGS = Settings(history_requests=5)


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    found = Folders(tmp_path / "loop", SETTINGS)
    made = found.base / "home" / "tuned_models" / "dlrm"
    made.mkdir(parents=True)
    (made / "weights").write_text("trained before the loop")
    (found.base / "home" / "mlflow.db").touch()
    (found.base / "ready").touch()
    return found


def test_days_before_the_loop_are_made_once_for_all_loops_that_have_them(folders: Folders) -> None:
    same = (replace(SETTINGS, days=7, change_hours=None, drift=3.0, rate=1.0), replace(SETTINGS, arms=(ONLINE,)))
    assert all(Folders(folders.root, of).base == folders.base for of in same)
    other = (replace(SETTINGS, seed=8), replace(SETTINGS, users=9), replace(SETTINGS, day_seconds=60))
    assert all(Folders(folders.root, of).base != folders.base for of in other)
    folders.prepare_base()  # nothing is trained
    assert (folders.base / "ready").exists()


def test_arms_begin_with_the_same_model_in_homes_of_their_own(folders: Folders) -> None:
    folders.prepare_run()
    for arm in SETTINGS.arms:
        home = folders.run / arm
        assert (home / "stream" / DATASET).is_dir()
        assert (home / "tuned_models").exists() == (arm != FROZEN) and not (home / "mlflow.db").exists()
    (folders.run / "records").mkdir()
    folders.prepare_run()
    assert not (folders.run / "records").exists()
    assert Settings.read(folders.run / "settings.json") == SETTINGS


def test_processes_do_not_inherit_folders(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EVERGREEN_LAKE", "EVERGREEN_LANDING", "EVERGREEN_SYNC", "EVERGREEN_HOME", "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(name, "/elsewhere")
    for arm in (None, *SETTINGS.arms):
        assert "/elsewhere" not in folders.environment(arm).values()
    homes = {folders.environment(arm)["EVERGREEN_HOME"] for arm in (None, *SETTINGS.arms)}
    assert len(homes) == 4
    assert folders.environment(FROZEN)["EVERGREEN_LAKE"] == folders.environment(None)["EVERGREEN_HOME"]
