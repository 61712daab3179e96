"""The days of a profile: one choice for the recipe of a day, for a tuning and for the command line."""

from __future__ import annotations

import pytest

from ml.advisor.hardware import Hardware
from ml.advisor.plan import plan_tuning
from ml.advisor.profiles.day import profile_day
from ml.advisor.profiles.days import days_to_profile
from ml.advisor.stored_advice import advice_of_day
from ml.advisor.window import WINDOW
from ml.days import days_from
from ml.lake import Lake
from ml.stages import FEATURE_PROFILES
from tests.helpers.training_days import FIRST, made_spec, write_days

SPEC = made_spec()
DAYS = days_from(FIRST, WINDOW + 3)


def write(lake: Lake, day: str, rows: int = 3, fingerprint: str = SPEC.fingerprint) -> None:
    with lake.write(FEATURE_PROFILES, SPEC.name, day) as folder:
        lake.write_manifest(folder, {"rows": rows, "fingerprint": fingerprint, "digest": day})


def test_at_most_a_window_of_days_before_the_day_is_chosen(lake: Lake) -> None:
    assert days_to_profile(SPEC, lake) == []
    for day in DAYS:
        write(lake, day)
    assert days_to_profile(SPEC, lake) == DAYS[-WINDOW:]
    assert days_to_profile(SPEC, lake, most=None) == DAYS
    assert days_to_profile(SPEC, lake, before=DAYS[3], most=2) == DAYS[1:3]
    assert days_to_profile(SPEC.starting_at(DAYS[1]), lake, before=DAYS[3]) == DAYS[1:3]


def test_a_gap_or_an_outdated_profile_ends_the_row(lake: Lake) -> None:
    for day in (*DAYS[:2], *DAYS[3:7]):
        write(lake, day)
    assert days_to_profile(SPEC, lake) == DAYS[3:7]
    write(lake, DAYS[4], fingerprint="another")
    assert days_to_profile(SPEC, lake) == DAYS[5:7]
    write(lake, DAYS[6], fingerprint="another")
    assert days_to_profile(SPEC, lake) == DAYS[5:7], "the newest is chosen, so that reading it raises"


def test_days_without_rows_are_left_out(lake: Lake) -> None:
    for day, rows in zip(DAYS, (0, 3, 0, 0), strict=False):
        write(lake, day, rows)
    assert days_to_profile(SPEC, lake) == DAYS[1:2]
    assert days_to_profile(SPEC, lake, most=2) == DAYS[3:4], "none of them has rows"


@pytest.mark.parametrize("gap", [None, 1])
def test_a_recipe_and_a_tuning_are_advised_from_the_same_days(lake: Lake, gap: int | None) -> None:
    days = write_days(lake, SPEC, 4, 320)
    for n, day in enumerate(days[:3]):
        if n != gap:
            profile_day(SPEC, day, lake)
    expected = tuple(days[:3] if gap is None else days[2:3])
    assert advice_of_day(SPEC, "dlrm", days[3], lake, None).days == expected
    assert plan_tuning(SPEC, "dlrm", days[3], lake, Hardware("a processor", 2, 8 << 30)).advice.days == expected
