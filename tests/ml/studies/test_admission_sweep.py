"""Every setting of the sweep is trained on all days except the last, and scored on the next day each time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ml.lake import Lake
from ml.studies import admission_sweep
from ml.studies.admission_sweep import LIFETIMES, THRESHOLDS, Setting, sweep, write_sweep
from tests.helpers.training_days import made_spec, write_days


def test_thresholds_and_lifetimes_keep_fewer_rows(lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission_sweep, "IDS", {"a": "a", "b": "b"})
    days, seen = write_days(lake, made_spec(), 3, 640), list[Setting]()
    settings = sweep(made_spec(), days, lake, on_result=seen.append)
    assert settings == seen
    assert [s.min_count for s in settings if s.ttl_days is None] == list(THRESHOLDS)
    assert [s.ttl_days for s in settings if s.ttl_days] == [lifetime for lifetime in LIFETIMES if lifetime]
    assert all(len(s.auc_by_day) == 2 and s.auc == pytest.approx(sum(s.auc_by_day) / 2) for s in settings)
    plain, twice = settings[0], settings[1]
    assert plain.rows == 6 + 2 * 640, "every value of b is a new one"
    assert twice.rows == 6 and twice.candidates > 0 == plain.candidates
    assert min(s.rows for s in settings if s.ttl_days) < plain.rows
    assert plain.auc > 0.6
    write_sweep(tmp_path, settings)
    assert [Setting(**setting) for setting in json.loads((tmp_path / "settings.json").read_text())] == settings
    assert (tmp_path / "rows.png").read_bytes().startswith(b"\x89PNG")


def test_one_day_is_too_few(lake: Lake) -> None:
    with pytest.raises(ValueError, match="at least two days"):
        sweep(made_spec(), ["2026-01-01"], lake)
