from __future__ import annotations

import pytest

from tests.helpers.training_days import FIRST, made_spec


def test_the_previous_day_is_one_of_the_dataset() -> None:
    assert made_spec().previous_day(FIRST) is None
    assert made_spec().previous_day("2026-01-02") == FIRST


@pytest.mark.parametrize("day", ["2025-12-31", "2026-01-06"])
def test_days_out_of_the_range_are_refused(day: str) -> None:
    with pytest.raises(ValueError, match=f"made has no day {day}: its days are 2026-01-01 to 2026-01-05"):
        made_spec().previous_day(day)
