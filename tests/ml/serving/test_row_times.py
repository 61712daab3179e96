"""Each event has one time: in `event_time`, and in the columns of the log as daily training reads them."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from upath import UPath

from ml.catalog.log_spec import LogSpec
from ml.compute.runner import LocalRunner
from ml.lake import Lake
from ml.logs.ingest import ingest_day
from ml.logs.read import raw_table
from ml.online.landing import land_day
from ml.parquet import write_table
from ml.serving.event_rows import EventRows
from ml.serving.faults import WrongEvent

DAY, SECOND = "2026-03-01", 1_000_000
BEGIN = 1_772_323_200 * SECOND  # of the day, in UTC
NOW = BEGIN + 3_600 * SECOND + 5
ISO: dict[str, Any] = {"unit": "iso8601"}
AMERICAN: dict[str, Any] = {"format": "%m/%d/%Y %I:%M:%S %p", "timezone": "America/Sao_Paulo"}
CLOCKS: list[tuple[str, dict[str, Any]]] = [
    *[(kind, {"unit": unit}) for unit in ("s", "ms", "us", "ns") for kind in ("int", "float", "string")],
    ("string", ISO),
    ("string", ISO | {"timezone": "America/Sao_Paulo"}),
    ("string", AMERICAN),
    ("string", {"format": "%d/%b/%Y:%H:%M:%S %z"}),
    ("string", {"format": "%Y%m%d %H.%M.%S.%f", "clock": "hour"}),
]


def log(kind: str = "int", **time: Any) -> LogSpec:
    columns = {"at": kind, "hour": "string", "item": "int"}
    return LogSpec.model_validate(
        {
            "dataset": "shop",
            "source": {"files": "%Y-%m-%d.csv", "format": "csv", "columns": columns},
            "time": {"column": "at", **time},
            "partitions": {"start": DAY, "end": "2026-03-03"},
        }
    )


def rows(of: LogSpec, *events: dict[str, Any], now: int = NOW) -> pa.Table:
    return EventRows("examples", of).of(events, now)


def late_enough(time: dict[str, Any]) -> int:
    """An hour after the beginning of the log."""
    return NOW + 3 * 3_600 * SECOND if "timezone" in time else NOW


@pytest.mark.parametrize(("kind", "time"), CLOCKS)
def test_daily_training_reads_events_at_the_time_that_they_were_stored_with(
    kind: str, time: dict[str, Any], tmp_path: Path
) -> None:
    of, now, lake = log(kind, **time), late_enough(time), Lake.at(tmp_path / "lake")
    times = [now, now - 3_600 * SECOND, now - SECOND, now]
    given: list[dict[str, Any]] = [{}, {"event_time": times[1]}, {"event_time": times[2]}, {"event_time": None, "at": None}]
    stored = rows(of, *[event | {"item": n} for n, event in enumerate(given)], now=now)
    assert stored["event_time"].to_pylist() == times
    write_table(stored, str(tmp_path / "stored.parquet"))
    landing = UPath(tmp_path / "landing")
    land_day(of, DAY, [UPath(tmp_path / "stored.parquet")], landing, UPath(tmp_path / "scratch"))
    ingest_day(of, DAY, str(landing), lake, LocalRunner())
    read = raw_table(lake, "shop", DAY).sort_by("item")
    assert [at // SECOND for at in read["event_time"].to_pylist()] == [at // SECOND for at in times]


@pytest.mark.parametrize(("kind", "time"), CLOCKS)
def test_the_time_of_an_event_is_that_of_the_columns_of_the_log(kind: str, time: dict[str, Any]) -> None:
    of, now = log(kind, **time), late_enough(time)
    at = now - 7_000_005  # a whole second
    [written] = rows(of, {"event_time": at}, now=now).drop_columns("event_time").to_pylist()
    assert rows(of, written, now=now)["event_time"].to_pylist() == [at]
    is_fine = time.get("unit") in ("us", "ns", "iso8601") or "%f" in time.get("format", "")
    with pytest.raises(WrongEvent, match="same time as event_time") if is_fine else nullcontext():
        both = rows(of, written | {"event_time": at + 2}, now=now)
        assert both["event_time"].to_pylist() == [at + 2] and not is_fine


@pytest.mark.parametrize(
    ("kind", "time", "value"),
    [
        ("int", {"unit": "s"}, NOW // SECOND + 86_400),
        ("int", {"unit": "ms"}, NOW // 1000 + 86_400_000),
        ("int", {"unit": "us"}, NOW + 86_400 * SECOND),
        ("int", {"unit": "ns"}, (NOW + 86_400 * SECOND) * 1000),
        ("int", {"unit": "s"}, 2**63 - 1),
        ("int", {"unit": "s"}, -(2**63)),
        ("int", {"unit": "s"}, BEGIN // SECOND - 1),
        ("int", {"unit": "s"}, NOW),  # in another unit
        ("float", {"unit": "s"}, float("nan")),
        ("float", {"unit": "s"}, float("inf")),
        ("float", {"unit": "s"}, 1e300),
        ("string", {"unit": "s"}, "1e9"),
        ("string", {"unit": "s"}, str(NOW // SECOND + 61)),
        ("string", ISO, "2026-03-02T01:00:00Z"),
        ("string", ISO, "2026-02-28T23:59:59Z"),
        ("string", ISO, "yesterday {at}"),
        ("string", ISO, ""),
        ("string", AMERICAN, "03/01/2026 11:00:00 AM"),
        ("string", {"format": "%Y-%m-%d %H:%M", "clock": "hour"}, "2026-03-01"),  # without the other column
    ],
)
def test_a_row_of_another_time_is_refused_by_name(kind: str, time: dict[str, Any], value: Any) -> None:
    said = r"^examples\[1\]\.at: expected .* from .*, where the log begins, to .* found "
    with pytest.raises(WrongEvent, match=said) as error:
        rows(log(kind, **time), {"item": 1}, {"at": value})
    assert repr(value)[:80] in str(error.value) and "an event without it has the time of its arrival" in str(error.value)


@pytest.mark.parametrize("value", [NOW + 61 * SECOND, 2**62, -(2**63), BEGIN - 1, NOW // 1000])
def test_an_event_time_that_is_wrong_is_refused_by_name(value: int) -> None:
    with pytest.raises(WrongEvent, match=rf"examples\[1\]\.event_time: expected microseconds since 1970 UTC .* found {value};"):
        rows(log(), {"item": 1}, {"event_time": value})


def test_two_times_of_an_event_are_refused() -> None:
    said = rf"examples\[1\]\.at: expected the same time as event_time, {NOW // SECOND}, found {BEGIN // SECOND}; leave one of"
    with pytest.raises(WrongEvent, match=said):
        rows(log(), {"event_time": NOW, "at": NOW // SECOND}, {"event_time": NOW, "at": BEGIN // SECOND})


@pytest.mark.parametrize(
    ("kind", "unit", "event_time", "own"),
    [
        ("int", "ms", NOW - 6_400, (NOW - 6_005) // 1000),
        ("int", "s", NOW - 300_005, NOW // SECOND),
        ("int", "us", NOW - 10, NOW - 9),
        ("float", "s", BEGIN + 1_500_001, BEGIN / SECOND + 1.5),
        ("float", "s", BEGIN + 1_500_001, BEGIN / SECOND + 1.500002),
        ("string", "ns", NOW - 9, str((NOW - 10) * 1000)),
        ("string", "iso8601", BEGIN + 1, "2026-03-01T00:00:00.000002Z"),
    ],
)
def test_two_times_of_an_event_may_differ_by_rounding(kind: str, unit: str, event_time: int, own: Any) -> None:
    [row] = rows(log(kind, unit=unit), {"event_time": event_time, "at": own}).to_pylist()
    assert (row["event_time"], row["at"]) == (event_time, own)


@pytest.mark.parametrize(
    ("unit", "own"),
    [("s", BEGIN // SECOND + 6), ("ms", BEGIN // 1000 + 5_001), ("us", BEGIN + 5_000_002), ("ns", (BEGIN + 5_000_002) * 1000)],
)
def test_a_difference_of_a_unit_is_refused(unit: str, own: int) -> None:
    with pytest.raises(WrongEvent, match=r"examples\[0\]\.at: expected the same time as event_time"):
        rows(log(unit=unit), {"event_time": BEGIN + 5 * SECOND, "at": own})


def test_a_time_that_is_rounded_to_the_next_day_stays_on_the_day_of_its_event_time() -> None:
    midnight = BEGIN + 86_400 * SECOND
    [row] = rows(log(unit="ms"), {"event_time": midnight - 400, "at": midnight // 1000}, now=midnight + SECOND).to_pylist()
    assert (row["event_time"], row["at"]) == (midnight - 400, midnight // 1000 - 1)


@pytest.mark.parametrize("ahead", [{"event_time": NOW + 30 * SECOND}, {"at": NOW // SECOND + 30}])
def test_a_clock_that_is_a_little_ahead_counts_as_the_present(ahead: dict[str, int]) -> None:
    [row] = rows(log(), ahead).to_pylist()
    assert (row["event_time"], row["at"]) == (NOW, NOW // SECOND)


def test_each_event_has_its_own_time() -> None:
    both = {"at": BEGIN // SECOND + 9, "event_time": BEGIN + 9_000_007}
    stored = rows(log(), {"at": BEGIN // SECOND}, {}, {"event_time": BEGIN + 5}, both)
    assert stored["event_time"].to_pylist() == [BEGIN, NOW, BEGIN + 5, BEGIN + 9_000_007]
    assert stored["at"].to_pylist() == [at // SECOND for at in stored["event_time"].to_pylist()]


def test_a_log_without_a_clock_has_event_times_alone() -> None:
    of = log().model_copy(update={"time": log().time.model_copy(update={"column": None, "by_position": True})})
    [row] = rows(of, {"at": 5}).to_pylist()
    assert (row["event_time"], row["at"]) == (NOW, 5)


def test_texts_without_an_offset_mean_the_first_of_two_hours_and_event_time_keeps_the_second() -> None:
    first, second = 1_792_888_200 * SECOND, 1_792_891_800 * SECOND  # 02:30 in Berlin, before and after clocks go back
    text, now = "2026-10-25 02:30:00", second + SECOND
    of = log("string", format="%Y-%m-%d %H:%M:%S", timezone="Europe/Berlin")
    given: list[dict[str, Any]] = [{"at": text}, {"event_time": second}, {"event_time": second, "at": text}]
    stored = rows(of, *given, now=now)
    assert stored["event_time"].to_pylist() == [first, second, second]
    assert stored["at"].to_pylist() == [text] * 3
    with_offset = rows(log("string", format="%Y-%m-%d %H:%M:%S%z", timezone="Europe/Berlin"), given[1], now=now)
    assert with_offset["at"].to_pylist() == ["2026-10-25 01:30:00+0000"]
