"""A day fails if its match rate falls against recent days by more than noise."""

from __future__ import annotations

import pytest

from ml.joiner.verdict import judge_day
from ml.lake import Lake
from ml.stages import JOINED_EXAMPLES
from tests.helpers.joined_logs import feed

DAYS = ["2026-03-01", "2026-03-02", "2026-03-03"]


def store(lake: Lake, day: str, actions: dict[str, int], fingerprint: str = "") -> None:
    with lake.write(JOINED_EXAMPLES, "feed", day) as staging:
        found = fingerprint or feed().fingerprint_of(JOINED_EXAMPLES)
        lake.write_manifest(staging, {"rows": 1000, "repeated": 250, "actions": actions, "fingerprint": found})


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
    store(lake, DAYS[2], actions)
    found = judge_day(feed(), DAYS[2], lake)
    assert bool(found.reasons) is fails and found.recent == 0.9 and found.repeated == 0.2


def test_a_day_without_comparable_days_passes(lake: Lake) -> None:
    store(lake, DAYS[0], {"matched": 900}, fingerprint="another")
    store(lake, DAYS[1], {"matched": 1, "no impression": 99})
    found = judge_day(feed(), DAYS[1], lake)
    assert not found.reasons and found.recent is None and found.rate == 0.01
