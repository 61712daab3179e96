"""Settings and the catalog entry of a loop."""

from __future__ import annotations

from pathlib import Path

import pytest

from ml.catalog.spec import DatasetSpec
from ml.loop.entry import loop_entry
from ml.loop.settings import SKEW_SECONDS, WAIT_MINUTES, Settings
from ml.recipes.recipe import recipe_of


def test_settings_survive_a_file(tmp_path: Path) -> None:
    settings = Settings(days=5, arms=("online", "frozen"), change_hours=None)
    settings.write(tmp_path / "settings.json")
    assert Settings.read(tmp_path / "settings.json") == settings


@pytest.mark.parametrize("day_seconds", [60.0, 150.0, 3600.0])
def test_the_entry_waits_for_clicks_and_for_journals(day_seconds: float) -> None:
    settings = Settings(day_seconds=day_seconds)
    spec = DatasetSpec.model_validate(loop_entry(settings))
    assert spec.actions is not None
    assert spec.actions.wait == WAIT_MINUTES * 60e6
    assert spec.actions.lateness / settings.pace / 1e6 == pytest.approx(SKEW_SECONDS)
    assert settings.waiting_seconds == pytest.approx((spec.actions.wait + spec.actions.lateness) / settings.pace / 1e6)
    assert settings.seconds_since_start(settings.start + 86_400_000_000) == pytest.approx(day_seconds)
    assert recipe_of(spec, spec.primary).online.learning_rate > 1


def test_the_days_of_the_entry_include_a_week_of_the_loop() -> None:
    settings = Settings(days=7)
    spec = DatasetSpec.model_validate(loop_entry(settings))
    assert set([*settings.history, *settings.served_days]) <= set(spec.days())
    assert spec.live_hours >= 24 * (settings.history_days + settings.days)
