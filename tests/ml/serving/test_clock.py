"""The clock of the service: live, after the end of a log, and simulated at a pace."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ml.serving.clock import Clock

DAY = 86_400_000_000


def test_a_log_of_yesterday_has_the_time_of_the_machine() -> None:
    clock = Clock.after(time.time_ns() // 1000 - DAY // 2)
    assert clock.is_live and abs(clock.now() - time.time_ns() // 1000) < 1_000_000


def test_a_log_that_has_ended_continues_at_its_end() -> None:
    clock = Clock.after(50 * DAY)
    assert not clock.is_live and 0 <= clock.now() - 50 * DAY < 60_000_000


def test_processes_that_share_a_file_agree_whenever_they_start(tmp_path: Path) -> None:
    file = tmp_path / "clock"
    assert Clock.read(file) is None
    file.write_text("1767312000,1000,60\n")
    one, other = Clock.read(file), Clock.wait_for(file)
    assert one == other and not other.is_live
    assert other.at(1_000_000_000) == 1_767_312_000_000_000
    assert other.at(1_002_000_000) == 1_767_312_120_000_000
    assert other.at(999_000_000) == 1_767_311_940_000_000


@pytest.mark.parametrize("text", ["", "1,2", "1,2,x", "1,2,0", "1,2,-3", "1,2,inf", "1,2,nan", "1,2,3,4"])
def test_another_form_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "clock").write_text(text)
    with pytest.raises(ValueError, match="clock: expected START,BEGAN,PACE"):
        Clock.read(tmp_path / "clock")
