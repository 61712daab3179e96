"""Event times and days, compared with the standard library one value at a time."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest

from ml.catalog.log_spec import LogSpec
from ml.catalog.reading import Time
from ml.catalog.spec import DatasetSpec
from ml.logs.clock import (
    day_index,
    day_key,
    days_of,
    event_times,
    from_event_times,
    partition_bounds,
    position_parts,
    position_times,
    time_values,
)
from ml.schema import FIRST_ID
from tests.helpers.feature_ways import features_in_every_way
from tests.helpers.shaped_logs import DAY, entry, in_folder

UTC = timezone.utc  # noqa: UP017


def spec(zone: str, start: date, end: date) -> LogSpec:
    return LogSpec.model_validate(
        {
            "dataset": "clock",
            "source": {"files": "*", "format": "csv", "columns": {"t": "int", "y": "int"}},
            "time": {"column": "t", "timezone": zone},
            "partitions": {"start": start, "end": end},
        }
    )


def micros(moment: datetime) -> int:
    return round((moment - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1))


@pytest.mark.parametrize("zone", ["UTC", "America/Sao_Paulo", "Europe/Berlin", "Asia/Kathmandu", "Australia/Lord_Howe"])
def test_days_follow_the_local_time_zone(zone: str) -> None:
    days = spec(zone, date(2017, 1, 1), date(2018, 12, 31))
    bounds, info = partition_bounds(days), ZoneInfo(zone)
    assert (np.diff(bounds) > 22 * 3_600_000_000).all()
    rng = np.random.default_rng(0)
    around = np.concatenate([bounds + shift for shift in (-1, 0, 1)])
    times = np.concatenate([around, rng.integers(bounds[0], bounds[-1], 3000)])
    for moment, day in zip(times.tolist(), days_of(times, bounds).tolist(), strict=True):
        local = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=moment)).astimezone(info)
        assert (local.date() - date(2017, 1, 1)).days == day


def test_sao_paulo_has_no_midnight_on_15_october_2017(catalog: dict[str, DatasetSpec]) -> None:
    index = day_index(catalog["globo"].log, "2017-10-15")
    begin, end = partition_bounds(catalog["globo"].log)[index : index + 2].tolist()
    assert begin == micros(datetime(2017, 10, 15, 3, tzinfo=UTC))
    assert end - begin == 23 * 3_600_000_000
    assert day_key(catalog["globo"].log, index) == "2017-10-15"


@pytest.mark.parametrize("key", ["2017-10-17", "2017-09-30", "yesterday", ""])
def test_a_key_outside_the_days_of_the_log_is_refused(key: str, catalog: dict[str, DatasetSpec]) -> None:
    with pytest.raises(ValueError, match="its days run from 2017-10-01 to 2017-10-16"):
        day_index(catalog["globo"].log, key)


@pytest.mark.parametrize(("unit", "per"), [("s", 1_000_000), ("ms", 1_000), ("us", 1)])
def test_numbers_of_every_unit(unit: str, per: int) -> None:
    values = [0, 1, -1, 1506826828, 2**62, -(2**63), 2**63 - 1, None]
    times, known = event_times(pa.chunked_array([pa.array(values, pa.int64())]), Time(column="t", unit=unit))  # type: ignore[arg-type]
    assert known.tolist() == [True] * 7 + [False]
    assert times.tolist()[:4] == [0, per, -per, 1506826828 * per]
    assert times[4] >= 2**62 and times[5] <= -(2**62) and times[6] >= 2**62
    floats, known = event_times(pa.chunked_array([[1.5, float("nan"), 1e300, -1e300]]), Time(column="t", unit=unit))  # type: ignore[arg-type]
    assert known.tolist() == [True, False, True, True]
    assert floats.tolist() == [round(1.5 * per), 0, 2**62, -(2**62)]


def test_nanoseconds() -> None:
    values = pa.chunked_array([[1506826828020123456, 2**63 - 1]])
    assert event_times(values, Time(column="t", unit="ns"))[0].tolist() == [1506826828020123, (2**63 - 1) // 1000]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_event_times_are_written_in_every_unit(unit: str) -> None:
    clock = Time(column="t", unit=unit)  # type: ignore[arg-type]
    times = np.array([0, 1_506_826_828_020_123, -1_506_826_828_020_123])
    per = {"s": 1_000_000, "ms": 1_000, "us": 1, "ns": 1}[unit]
    own = from_event_times(times, clock)
    np.testing.assert_array_equal(event_times(pa.chunked_array([pa.array(own)]), clock)[0], times // per * per)


@pytest.mark.parametrize("zone", ["UTC", "America/Sao_Paulo", "Asia/Kathmandu"])
def test_iso_8601(zone: str) -> None:
    rng, info = np.random.default_rng(0), ZoneInfo(zone)
    texts, expected = [], []
    for seconds in rng.integers(-(10**9), 3 * 10**9, 2000).tolist():
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds, microseconds=int(rng.integers(10**6)))
        shift = timezone(timedelta(minutes=int(rng.integers(-14 * 60, 14 * 60))))
        local = moment.astimezone(info).replace(tzinfo=None, fold=0)
        ways = [moment.isoformat(), moment.astimezone(shift).isoformat(), local.isoformat(sep=" "), local.date().isoformat()]
        text = ways[int(rng.integers(len(ways)))]
        said = datetime.fromisoformat(text)
        texts.append(text.replace("+00:00", "Z"))
        expected.append(micros(said if said.tzinfo else said.replace(tzinfo=info)))
    times, known = event_times(pa.chunked_array([texts]), Time(column="t", unit="iso8601", timezone=zone))
    assert known.all()
    assert times.tolist() == expected


WRONG_TIMES = ["", "x", "2026-02-30", "2026-13-01", "2026-01-01T24:00", "2026-01-01T10:60", "2026-01-01T10:00:60", "1506826828"]


@pytest.mark.parametrize("text", [*WRONG_TIMES, "2026-01-01T10:00+", "2026-1-1", "2026-00-01", "2026-01-00", None])
def test_invalid_times_are_not_parsed(text: str | None) -> None:
    column = pa.chunked_array([pa.array(["2026-01-01", text], pa.string())])
    assert event_times(column, Time(column="t", unit="iso8601"))[1].tolist() == [True, False]


FORMATS = [
    "%m/%d/%Y %I:%M:%S %p",
    "%Y/%m/%d %H:%M",
    "%Y%m%dT%H%M%SZ",
    "%d/%b/%Y:%H:%M:%S %z",
    "%d %B %y, %H.%M.%S.%f",
    "%a %b %d %H:%M:%S %Y",
    "%Y-%j",
    "%A %d.%m.%Y %I%p",
    "[%Y-%m-%dT%H:%M:%S.%f%z] 100%%",
]


@pytest.mark.parametrize("zone", ["UTC", "America/Sao_Paulo"])
@pytest.mark.parametrize("text", FORMATS)
def test_formats_are_read_as_strptime_reads_them(text: str, zone: str) -> None:
    rng, info = np.random.default_rng(0), ZoneInfo(zone)
    shift = timezone(timedelta(minutes=-570))
    moments = [
        datetime.fromtimestamp(int(seconds), UTC).astimezone(shift).replace(microsecond=int(rng.integers(10**6)))
        for seconds in rng.integers(0, 2 * 10**9, 500)
    ]
    texts = [moment.strftime(text) for moment in moments]
    said = [datetime.strptime(value, text) for value in texts]
    times, known = event_times(pa.chunked_array([texts]), Time(column="t", format=text, timezone=zone))
    assert known.all()
    assert times.tolist() == [micros(moment if moment.tzinfo else moment.replace(tzinfo=info)) for moment in said]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("%m/%d/%Y %I:%M %p", "13/01/2026 1:00 PM"),
        ("%m/%d/%Y %I:%M %p", "02/30/2026 1:00 PM"),
        ("%m/%d/%Y %I:%M %p", "02/03/2026 0:30 AM"),
        ("%m/%d/%Y %I:%M %p", "02/03/2026 13:30 PM"),
        ("%m/%d/%Y %I:%M %p", "02/03/2026 1:30 XM"),
        ("%d/%b/%Y", "01/Foo/2026"),
        ("%d %B %Y", "01 Maybe 2026"),
        ("%Y-%j", "2026-366"),
        ("%Y-%j", "2026-0"),
        ("%Y-%m-%d", "2026-02-03 10:00"),
        ("%Y.%m.%d", "2026-02-03"),
        ("%Y-%m-%d %z", "2026-02-03 +19:00"),
        ("%Y-%m-%d", None),
    ],
)
def test_texts_that_do_not_fit_the_format_are_not_times(text: str, value: str | None) -> None:
    assert event_times(pa.chunked_array([pa.array([value], pa.string())]), Time(column="t", format=text))[1].tolist() == [False]


def test_date_and_time_of_day_in_two_columns() -> None:
    table = pa.table({"time": ["23:59:59", "00:00", None, "01:00:00"], "date": ["31.12.2025"] * 3 + [None]})
    clock = Time(column="date", clock="time", format="%d.%m.%Y %H:%M:%S", timezone="Europe/Berlin")
    times, known = event_times(time_values(table, clock), clock)
    assert known.tolist() == [True, False, False, False]
    assert times[0] == micros(datetime(2025, 12, 31, 22, 59, 59, tzinfo=UTC))


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_numbers_as_text_are_read_as_numbers(unit: str) -> None:
    clock = Time(column="t", unit=unit)  # type: ignore[arg-type]
    numbers = [1506826828, -5, 0, None, 1_506_826_828_020_123_456]
    for values, kind in ((numbers, pa.int64()), ([*numbers[:3], 1506826828.25], pa.float64())):
        texts = pa.array([None if value is None else f" {value}" for value in values])
        read, expected = (event_times(pa.chunked_array([column]), clock) for column in (texts, pa.array(values, kind)))
        assert read[0].tolist() == expected[0].tolist() and read[1].tolist() == expected[1].tolist()
    assert not event_times(pa.chunked_array([["", "x", "1e9", "1-2", "0x10", "9" * 19]]), clock)[1].any()


@pytest.mark.parametrize(
    ("time", "text"),
    [
        ({"format": "%m/%d/%Y %I:%M:%S %p"}, "1/1/2026 2:14:46 PM"),
        ({"format": "%Y%m%dT%H%M%S%z"}, "20260101T141446Z"),
        ({"unit": "ms"}, "1767276886000"),
        ({"unit": "iso8601", "timezone": "America/Sao_Paulo"}, "2026-01-01 11:14:46"),
    ],
)
def test_times_of_text_in_every_way(time: dict[str, str], text: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    kinds = {"time": "string", "clicked": "int", "item": "string"}
    hour = {"name": "hour", "hour_of_day": True}
    log = entry(kinds, "tsv", ["item", hour], {}, time={"column": "time", **time})
    folder = in_folder(tmp_path, "log.tsv", f"{text}\t1\ta\n{text}\t0\tb\n")
    spark = request.getfixturevalue("spark") if "timezone" in time else None  # Spark takes long, and runs the same tasks
    rows, features, _ = features_in_every_way(log, folder, DAY, spark)
    assert rows["event_time"].to_pylist() == [micros(datetime(2026, 1, 1, 14, 14, 46, tzinfo=UTC))] * 2
    local = 11 if "timezone" in time else 14
    assert features["hour"].to_pylist() == [FIRST_ID + local] * 2


@pytest.mark.parametrize(("total", "days"), [(0, 3), (2, 3), (10, 3), (137_139, 7), (45_840_617, 7)])
def test_equal_parts_by_position(total: int, days: int) -> None:
    parts = position_parts(total, days)
    lengths = np.diff(parts)
    assert parts[0] == 0 and parts[-1] == total
    size, extras = divmod(total, days)
    assert lengths.tolist() == [size + 1] * extras + [size] * (days - extras)


def test_times_by_position_fill_each_day_in_order() -> None:
    bounds = partition_bounds(spec("America/Sao_Paulo", date(2017, 10, 14), date(2017, 10, 16)))
    parts = position_parts(1_000_003, 3)
    times = position_times(np.arange(1_000_003), parts, bounds)
    assert (np.diff(times) > 0).all()
    for day in range(3):
        of_day = times[parts[day] : parts[day + 1]]
        assert of_day[0] == bounds[day] and of_day[-1] < bounds[day + 1]
        steps = np.diff(of_day)
        assert steps.max() - steps.min() <= 1
    far = position_times(np.array([3 * 10**9 - 1]), np.array([0, 3 * 10**9]), bounds[:2])
    assert bounds[1] - 100 < far[0] < bounds[1]
