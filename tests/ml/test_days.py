from __future__ import annotations

from datetime import date
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from ml.days import day_before, day_bounds, days_apart, days_between, days_from, shift_day, trailing_days


def test_a_range_holds_both_of_its_ends() -> None:
    assert days_between("2024-02-28", "2024-03-01") == ["2024-02-28", "2024-02-29", "2024-03-01"]
    assert days_between("2024-02-28", "2024-02-28") == ["2024-02-28"]
    assert days_between("2024-02-28", "2024-02-27") == []
    assert days_from("2024-12-31", 2) == ["2024-12-31", "2025-01-01"] and days_from("2024-12-31", 0) == []


def test_trailing_days_end_before_the_day() -> None:
    assert trailing_days("2024-03-01", 2) == ["2024-02-28", "2024-02-29"]
    assert trailing_days("2024-03-01", 1) == [day_before("2024-03-01")] and trailing_days("2024-03-01", 0) == []


@pytest.mark.parametrize("by", [-400, -1, 0, 1, 400])
def test_a_shifted_day_is_as_far_apart(by: int) -> None:
    assert days_apart("2024-02-29", shift_day("2024-02-29", by)) == by


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [("UTC", "2026-03-01", 24), ("America/New_York", "2026-03-08", 23), ("America/New_York", "2026-11-01", 25)],
)
def test_a_day_is_as_long_as_its_zone_says(zone: str, day: str, hours: int) -> None:
    first, after = day_bounds(day, ZoneInfo(zone))
    assert (after - first) / 3_600_000_000 == hours


def test_days_of_a_zone_follow_each_other_without_gaps() -> None:
    zone = ZoneInfo("America/Sao_Paulo")
    bounds = [day_bounds(day, zone) for day in days_between("2017-10-01", date(2018, 3, 1).isoformat())]
    assert all(after == first for (_, after), (first, _) in pairwise(bounds))
