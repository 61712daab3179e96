"""The report of a loop: its numbers, its figure and its page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ml.loop.records import Recorder
from ml.loop.report import write_report
from ml.loop.settings import ARMS, Settings

HOUR = 3_600_000_000
AFTER = {"online": 0.3, "daily": 0.2, "frozen": 0.1}


def record(folder: Path, settings: Settings) -> None:
    """Requests of four users a quarter of an hour; after the change, arms differ."""
    for arm in settings.arms:
        rows = []
        for quarter in range(settings.days * 96):
            time = settings.start + quarter * HOUR // 4
            changed = settings.change is not None and time >= settings.change + 4 * HOUR * (arm == "online")
            rows += [[time, user, AFTER[arm] if changed else 0.3, 0.4, 0.1] for user in range(4)]
        Recorder(folder / "records", f"requests-{arm}").write(failed=1, rows=rows)


def test_the_report_of_a_change_says_who_recovers(tmp_path: Path) -> None:
    settings = Settings()
    record(tmp_path, settings)
    lines = write_report(settings, tmp_path, {"serve online": 2})
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["arms"]["online"]["quality"] == pytest.approx(0.75)
    assert metrics["arms"]["frozen"]["hours"] is None and metrics["arms"]["online"]["hours"] is not None
    assert metrics["any"] == pytest.approx(0.25)
    assert "does not recover" in next(line for line in lines if line.startswith("frozen"))
    assert "3 of 3,459 requests failed, with 2 restarts" in lines
    assert (tmp_path / "quality.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "report.html").read_text()
    assert all(arm in page for arm in ARMS) and "simulated" in page and "serve online</td><td>2<" in page


def test_the_report_of_days_has_the_improvement_by_day(tmp_path: Path) -> None:
    settings = Settings(days=2, change_hours=24)
    record(tmp_path, settings)
    write_report(settings, tmp_path, {})
    days = json.loads((tmp_path / "metrics.json").read_text())["days"]
    assert days[0]["improvement"]["daily"]["percent"] == pytest.approx(0, abs=1e-9)
    assert days[1]["improvement"]["daily"]["percent"] == pytest.approx(50, abs=10)
    assert days[1]["improvement"]["frozen"]["percent"] == pytest.approx(200, abs=10)


def test_a_loop_that_ended_at_once_has_a_report(tmp_path: Path) -> None:
    settings = Settings(arms=("online",))
    lines = write_report(settings, tmp_path, {})
    assert lines[-1].endswith("report.html") and (tmp_path / "report.html").exists()
