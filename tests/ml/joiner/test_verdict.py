"""A day fails if its match rate falls against recent days by more than noise."""

from __future__ import annotations

import pytest

from ml.joiner.verdict import judge_day
from ml.lake import Lake
from ml.stages import JOINED_EXAMPLES
from tests.helpers.joined_logs import feed

DAYS = ["2026-03-01", "2026-03-02", "2026-03-03"]


def store(lake: Lake, day: str, actions: dict[str, int], rows: int = 1000, fingerprint: str = "") -> None:
    with lake.write(JOINED_EXAMPLES, "feed", day) as staging:
        found = fingerprint or feed().fingerprint_of(JOINED_EXAMPLES)
        lake.write_manifest(staging, {"rows": rows, "repeated": rows // 4, "actions": actions, "fingerprint": found})


@pytest.mark.parametrize(
    ("actions", "fails"),
    [
        ({"matched": 90, "no impression": 10}, False),
        ({"matched": 79, "no impression": 21}, False),  # less than a fifth lower
        ({"matched": 50, "no impression": 50}, True),
        ({"matched": 2, "after the wait": 2}, False),  # too few to say
        ({"no impression": 100}, True),
        ({"matched": 90, "no impression": 10, "repeated": 500}, False),
        ({}, True),
    ],
)
def test_a_fall_of_the_match_rate_fails(actions: dict[str, int], fails: bool, lake: Lake) -> None:
    for day in DAYS[:2]:
        store(lake, day, {"matched": 900, "no impression": 100, "repeated": 30})
    rows = sum(count for what, count in actions.items() if what != "repeated")  # as many for each example as before
    store(lake, DAYS[2], actions, rows or 100)
    found = judge_day(feed(), DAYS[2], lake)
    assert bool(found.reasons) is fails and found.recent == 0.9 and found.repeated == 0.2


def test_a_day_without_comparable_days_passes(lake: Lake) -> None:
    store(lake, DAYS[0], {"matched": 900}, fingerprint="another")
    store(lake, DAYS[1], {"matched": 1, "no impression": 99})
    found = judge_day(feed(), DAYS[1], lake)
    assert not found.reasons and found.recent is None and found.rate == 0.01


@pytest.mark.parametrize(
    ("actions", "rows", "fails"), [(50, 1000, True), (70, 1000, False), (5, 100, False), (100, 1000, False)]
)
def test_a_day_that_has_lost_half_of_its_actions_fails(actions: int, rows: int, fails: bool, lake: Lake) -> None:
    for day in DAYS[:2]:
        store(lake, day, {"matched": 90, "no impression": 10, "repeated": 40})
    store(lake, DAYS[2], {"matched": actions * 9 // 10, "no impression": actions // 10, "repeated": 100}, rows)
    found = judge_day(feed(), DAYS[2], lake)
    assert bool(found.reasons) is fails
    assert not fails or found.reasons == (
        "there are 0.0500 actions per example (50 and 1,000), and there were 0.1000 on the 2 days before (200 and 2,000): "
        "some actions are missing, or there are too many impressions",
    )
