"""`make demo` and the replay command name days that another recipe trained."""

import logging
from pathlib import Path
from typing import Any

import pytest

from ml.catalog.spec import DatasetSpec
from orchestration.replay import replay
from tests.helpers.small_logs import write_log


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setenv("EVERGREEN_SPARK_MASTER", "none")
    return write_log("ratings", tmp_path / "home" / "landing" / "ratings", 0)


def test_days_that_another_recipe_trained_are_named(entry: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    spec = DatasetSpec.model_validate(entry)
    days = spec.days()[:2]
    assert replay(spec, days) == days
    with caplog.at_level(logging.WARNING):
        assert replay(spec, days) == []
        assert "The recipe of" not in caplog.text
        changed = DatasetSpec.model_validate(entry | {"recipe": {"overrides": {"seed": 7}}})
        assert replay(changed, days) == []
    assert f"The recipe of dlrm has changed since it trained {days[0]}" in caplog.text
    assert f"orchestration.replay ratings --from {days[0]} --redo" in caplog.text
