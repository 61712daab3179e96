"""Event times are written as the standard library writes them, one value at a time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest

from ml.catalog.reading import Time
from ml.logs.clock import event_times, time_values
from ml.logs.time_columns import ISO_FORMAT, time_columns
from tests.ml.logs.test_clock import FORMATS

TIMES = np.random.default_rng(0).integers(0, 2**31 * 1_000_000, 1000)
ZONES = ["UTC", "America/Sao_Paulo", "Asia/Kathmandu", "Australia/Lord_Howe"]


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("text", [None, *FORMATS])
def test_texts_are_written_as_strftime_writes_them(text: str | None, zone: str) -> None:
    clock = Time(column="at", timezone=zone, **({"format": text} if text else {"unit": "iso8601"}))
    text = text or ISO_FORMAT
    info = UTC if "%z" in text else ZoneInfo(zone)
    moments = [(datetime.fromtimestamp(0, UTC) + timedelta(microseconds=at)).astimezone(info) for at in TIMES.tolist()]
    written = time_columns(TIMES, clock)
    assert written["at"].to_pylist() == [moment.strftime(text) for moment in moments]
    assert event_times(time_values(pa.table(written), clock), clock)[1].all()


def test_date_and_time_of_day_are_written_to_two_columns() -> None:
    clock = Time(column="day", clock="hour", format="%d %B %Y %H:%M:%S.%f", timezone="Asia/Kathmandu")
    written = time_columns(TIMES, clock)
    assert list(written) == ["day", "hour"] and written["day"][0].as_py().count(" ") == 2
    read, known = event_times(time_values(pa.table(written), clock), clock)
    assert known.all()
    np.testing.assert_array_equal(read, TIMES)


def test_a_log_without_a_clock_has_no_columns_of_the_time() -> None:
    assert time_columns(TIMES, Time(by_position=True)) == {}


@pytest.mark.parametrize("text", ["%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M%z"])
def test_both_hours_when_clocks_go_back_have_one_text_without_an_offset(text: str) -> None:
    clock = Time(column="at", format=text, timezone="Europe/Berlin")
    local = datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"))
    summer, winter = (int(local.replace(fold=fold).timestamp()) * 1_000_000 for fold in (0, 1))
    assert winter - summer == 3_600_000_000
    read, known = event_times(time_values(pa.table(time_columns(np.array([summer, winter]), clock)), clock), clock)
    assert known.all()
    assert read.tolist() == ([summer, winter] if "%z" in text else [summer, summer])
