"""Measures of a loop on requests whose quality is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ml.loop.quality import Requests, curve, freshness, improvement, read_requests, recovery
from ml.loop.records import Recorder
from ml.loop.settings import Settings

HOUR = 3_600_000_000
SETTINGS = Settings(days=3, change_hours=12)


def requests(quality, rng: np.random.Generator, users: int = 60, count: int = 3000) -> Requests:
    """Requests whose quality is a function of the hours since the start; users differ in how well they are served."""
    hours = np.sort(rng.uniform(0, 72, count))
    user = rng.integers(0, users, count)
    best = rng.uniform(0.2, 0.4, count)
    recommended = best * np.vectorize(quality)(hours) * rng.normal(1, 0.2, users)[user] * rng.uniform(0.9, 1.1, count)
    return Requests((SETTINGS.start + hours * HOUR).astype(np.int64), user, recommended, best, best / 3)


def test_an_arm_that_relearns_recovers_and_a_frozen_one_does_not() -> None:
    rng = np.random.default_rng(0)
    learns = requests(lambda hour: 0.8 if hour < 12 else min(0.8, 0.4 + 0.4 * (hour - 12) / 10), rng)
    frozen = requests(lambda hour: 0.8 if hour < 12 else 0.4, rng)
    of = recovery(learns, SETTINGS)
    assert of.hours is not None and 4 < of.hours < 10
    assert of.after < 0.7 * of.before and of.end == pytest.approx(of.before, rel=0.15)
    assert recovery(frozen, SETTINGS).hours is None


def test_the_curve_has_the_quality_of_each_hour() -> None:
    found = curve(requests(lambda hour: 0.8 if hour < 12 else 0.4, np.random.default_rng(1), count=20_000), SETTINGS)
    assert len(found.time) == 72
    assert found.quality[:12] == pytest.approx(0.8, rel=0.15) and found.quality[13:] == pytest.approx(0.4, rel=0.15)


def test_the_interval_of_an_improvement_contains_the_true_one_as_often_as_it_says() -> None:
    hits = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        found = improvement(requests(lambda _: 0.66, rng, count=800), requests(lambda _: 0.6, rng, count=800))
        assert found is not None and found.interval is not None
        hits += found.interval[0] <= 10.0 <= found.interval[1]
    assert 180 <= hits <= 199


def test_without_requests_there_is_no_comparison() -> None:
    some = requests(lambda _: 0.6, np.random.default_rng(0))
    assert improvement(some.between(0, 1), some) is None
    assert np.isnan(some.between(0, 1).quality)


def test_a_record_that_a_kill_has_cut_off_is_ignored(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, "requests-online")
    recorder.write(failed=2, rows=[[SETTINGS.start + 5, 3, 0.2, 0.4, 0.1], [SETTINGS.start, 4, 0.1, 0.4, 0.1]])
    recorder.close()
    file = next(tmp_path.iterdir())
    file.write_text(file.read_text() + '{"at": 1.0, "failed": 0, "rows": [[17')
    Recorder(tmp_path, "requests-online").write(failed=1, rows=[[SETTINGS.start + 9, 3, 0.3, 0.4, 0.1]])
    found = read_requests(tmp_path, "online")
    assert found.user.tolist() == [4, 3, 3] and found.failed == 3
    assert found.quality == pytest.approx(0.5)


def test_freshness_is_the_time_until_a_version_knows_the_event(tmp_path: Path) -> None:
    settings = replace(SETTINGS, arms=("online",))
    start = settings.start
    (tmp_path / "acknowledged-online-1.jsonl").write_text(
        f'{{"at": 100.0, "time": {start}, "impressions": [["a", 1], ["a", 2]]}}\n'
        f'{{"at": 101.0, "time": {start + 10}, "impressions": [["b", 1]]}}\n'
        f'{{"at": 102.0, "time": {start + 10}, "actions": [["a", 1]]}}\n'
        f'{{"at": 103.0, "time": {start + 99}, "impressions": [["never served", 1]]}}\n'
    )
    (tmp_path / "served-1.jsonl").write_text(
        f'{{"at": 90.0, "event_to": null}}\n{{"at": 112.0, "event_to": {start + 3}}}\n'
        f'{{"at": 115.0, "event_to": {start + 10}}}\n'
    )
    found = freshness(tmp_path, settings)
    assert found.seconds.tolist() == [12.0, 12.0, 14.0] and found.unreached == 1
    assert found.quantiles((0.5,)) == ([12.0], [12.0 - settings.waiting_seconds])
