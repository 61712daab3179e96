"""A value means the same whatever the type in which a file stores it; what does not fit is marked, never changed."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml.catalog.log_spec import LogSpec
from ml.catalog.reading import ColumnType
from ml.compute.runner import LocalRunner
from ml.lake import Lake
from ml.logs.ingest import ingest_day
from ml.logs.read import quarantine_table, raw_table
from ml.logs.text.layout import WrongFile
from ml.logs.typed_columns import UnreadableType, ValueRules, type_column

NAN, INF = float("nan"), float("inf")
BAD = object()
MOMENT = datetime(2026, 3, 1, 12, 30, 15, 250_000)


def typed(values: pa.Array | list[Any], kind: ColumnType, **more: Any) -> list[Any]:
    """The typed values, BAD where one does not fit."""
    array = values if isinstance(values, pa.Array) else pa.array(values)
    found = type_column(pa.chunked_array([array]), kind, **more)
    assert not (found.inexact & ~found.wrong).any() and not (found.not_utf8 & ~found.wrong).any()
    pairs = zip(found.values.to_pylist(), found.wrong.tolist(), strict=True)
    assert found.values.null_count >= found.wrong.sum()
    return [BAD if wrong else value for value, wrong in pairs]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 1.0, NAN, 0.3, -2.0, None], [False, True, BAD, BAD, BAD, None]),
        ([0, 1, 2, -1, None], [False, True, BAD, BAD, None]),
        ([Decimal("0.00"), Decimal("1.00"), Decimal("0.50")], [False, True, BAD]),
        (["true", "0", "FALSE", "yes", "2", None], [True, False, False, BAD, BAD, None]),
        ([True, False, None], [True, False, None]),
        (pa.array([0, 1, 2**64 - 1], pa.uint64()), [False, True, BAD]),
        (pa.array(np.array([0, 1, 0.5], np.float16)), [False, True, BAD]),
        (pa.nulls(2), [None, None]),
    ],
)
def test_only_0_and_1_are_truth_values(values: Any, expected: list[Any]) -> None:
    assert typed(values, "bool") == expected


WHOLE = [0, 7, -7, 123, 4006381333931, 2**53 - 1]


@pytest.mark.parametrize("kind", ["int", "string"])
def test_whole_numbers_are_the_same_in_columns_of_every_type(kind: ColumnType) -> None:
    expected = [*map(int if kind == "int" else str, WHOLE), None]
    ways = [
        pa.array([*WHOLE, None], pa.int64()),
        pa.array([*map(float, WHOLE), None], pa.float64()),
        pa.array([*map(str, WHOLE), None], pa.string()),
        pa.array([*map(str, WHOLE), None], pa.large_string()),
        pa.array([*map(str, WHOLE), None], pa.string_view()),
        pa.array([str(n).encode() for n in WHOLE] + [None], pa.binary()),
        pa.array([*map(Decimal, WHOLE), None], pa.decimal128(20, 0)),
        pa.array([*map(Decimal, WHOLE), None], pa.decimal128(20, 3)),
        pa.array([*map(Decimal, WHOLE), None], pa.decimal256(40, 2)),
        pa.array([*map(str, WHOLE), None]).dictionary_encode(),
        pa.array([*map(float, WHOLE), None]).dictionary_encode(),
    ]
    for way in ways:
        assert typed(way, kind) == expected, way.type


@pytest.mark.parametrize("kind", ["int", "string"])
@pytest.mark.parametrize(("dtype", "limit"), [(np.float64, 2**53), (np.float32, 2**24), (np.float16, 2**11)])
def test_integers_that_floats_cannot_tell_apart_are_refused(kind: ColumnType, dtype: Any, limit: int) -> None:
    values = pa.array(np.array([limit - 1, limit, limit + 2, -limit, 1 - limit], dtype))
    first, last = (limit - 1, 1 - limit) if kind == "int" else (str(limit - 1), str(1 - limit))
    assert typed(values, kind) == [first, BAD, BAD, BAD, last]
    assert type_column(pa.chunked_array([values]), kind).inexact.tolist() == [False, True, True, True, False]


def test_fractions_are_texts_and_not_integers() -> None:
    assert typed([0.5, -1.25, NAN, INF, None], "int") == [BAD, BAD, BAD, BAD, None]
    assert typed([0.5, -1.25, NAN, INF, None], "string") == ["0.5", "-1.25", BAD, BAD, None]
    assert typed([Decimal("0.50"), Decimal("10.00"), Decimal("-1.25")], "string") == ["0.5", "10", "-1.25"]
    assert typed([Decimal("0.50"), Decimal("10.00")], "int") == [BAD, 10]


def test_floats() -> None:
    assert typed([1, 2**53 + 1, None], "float") == [1.0, float(2**53), None]
    assert typed([1.5, NAN, INF, None], "float") == [1.5, BAD, BAD, None]
    assert typed(["1.5", " 2 ", "x", "inf", "", None], "float", rules=ValueRules(("",))) == [1.5, 2.0, BAD, BAD, None, None]
    assert typed([True, False], "float") == [1.0, 0.0]
    assert typed([Decimal("1.50")], "float") == [1.5]


def test_integers_of_64_bits() -> None:
    assert typed(pa.array([2**63 - 1, 2**63, 2**64 - 1], pa.uint64()), "int") == [2**63 - 1, BAD, BAD]
    assert typed(pa.array([2**64 - 1], pa.uint64()), "string") == [str(2**64 - 1)]
    assert typed(["9223372036854775807", "9223372036854775808", "1.0"], "int") == [2**63 - 1, BAD, BAD]


def test_bytes_that_are_not_text_are_found_among_others() -> None:
    values: list[Any] = [b"a", None] * 500
    values[3] = values[700] = b"\xff"
    found = type_column(pa.chunked_array([values]), "string")
    assert np.flatnonzero(found.not_utf8).tolist() == np.flatnonzero(found.wrong).tolist() == [3, 700]


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_times_are_the_same_whatever_the_unit_of_the_file(unit: str) -> None:
    stamps = pa.array([MOMENT, None], pa.timestamp(unit))
    seconds = (MOMENT - datetime(1970, 1, 1)).total_seconds()
    for asked, per in (("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)):
        assert typed(stamps, "int", time_unit=asked) == [int(seconds * 1000) * per // 1000, None]
    assert typed(stamps, "string") == ["2026-03-01 12:30:15.250000", None]
    waits = pa.array([timedelta(seconds=1.5)], pa.duration(unit))
    assert typed(waits, "int") == [1_500_000] and typed(waits, "string") == ["1500000"]
    assert typed(pa.array([time(1, 2, 3)], pa.time32("ms")), "string") == typed(pa.array([time(1, 2, 3)]), "string")
    assert typed([date(2026, 3, 1)], "string") == typed(pa.array([date(2026, 3, 1)], pa.date64()), "string") == ["2026-03-01"]


@pytest.mark.parametrize(
    ("held", "kind", "said"),
    [
        (
            pa.list_(pa.string()),
            "string",
            "is list<item: string>, which cannot be read as string; declare a list as list<string>",
        ),
        (pa.list_(pa.int64()), "int", "which cannot be read as int; declare a list as list<string>"),
        (pa.struct([("a", pa.int64())]), "string", "which cannot be read as string"),
        (pa.map_(pa.string(), pa.int64()), "string", "which cannot be read as string"),
        (pa.date32(), "int", "is date32.*declare it as string"),
        (pa.timestamp("us"), "float", "which cannot be read as float"),
        (pa.timestamp("us"), "bool", "which cannot be read as bool"),
        (pa.binary(2), "string", "write it as text"),
        (pa.uuid(), "string", "write it as text"),
    ],
)
def test_types_that_cannot_be_read_are_named(held: pa.DataType, kind: ColumnType, said: str) -> None:
    with pytest.raises(UnreadableType, match=said):
        type_column(pa.chunked_array([], held), kind)


def log_of(columns: dict[str, str], unit: str = "s") -> LogSpec:
    return LogSpec.model_validate(
        {
            "dataset": "small",
            "source": {"files": "%Y-%m-%d.parquet", "format": "parquet", "columns": columns},
            "time": {"column": "t", "unit": unit},
            "partitions": {"start": date(2026, 3, 1), "end": date(2026, 3, 3)},
        }
    )


def ingest(log: LogSpec, folder: Path, lake: Lake, day: str, columns: dict[str, Any]) -> tuple[list[Any], dict[str, int]]:
    """Values of `v` on a day that holds these columns, and the reasons of its quarantine."""
    pq.write_table(pa.table(columns), folder / f"{day}.parquet")
    done = ingest_day(log, day, folder, lake, LocalRunner())
    assert done.reasons == {r: n for r, n in done.reasons.items() if n}
    assert quarantine_table(lake, "small", day).num_rows == done.quarantined
    return raw_table(lake, "small", day)["v"].to_pylist(), done.reasons


DAYS = {"2026-03-01": 1772323200, "2026-03-02": 1772409600}


def test_ids_keep_their_text_from_one_day_to_the_next(tmp_path: Path, lake: Lake) -> None:
    ids = [4006381333931, 12345678901]
    found = [
        ingest(log_of({"t": "int", "v": "string"}), tmp_path, lake, day, {"t": [at] * len(values), "v": values})
        for (day, at), values in zip(DAYS.items(), [pa.array(ids), pa.array([*map(float, ids), None])], strict=True)
    ]
    assert found == [(["4006381333931", "12345678901"], {}), (["4006381333931", "12345678901", None], {})]


def test_ids_that_doubles_cannot_hold_are_quarantined_with_the_reason(tmp_path: Path, lake: Lake) -> None:
    ids = [2**53 + 1, 2**53 + 3]
    log = log_of({"t": "int", "v": "int"})
    days = iter(DAYS.items())
    day, at = next(days)
    assert ingest(log, tmp_path, lake, day, {"t": [at] * 2, "v": ids}) == (ids, {})
    day, at = next(days)
    found = ingest(log, tmp_path, lake, day, {"t": [at] * 3, "v": pa.array([*map(float, ids), None])})
    assert found == ([None], {"inexact integer in column v": 2})


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("held", ["ms", "us", "ns"])
def test_timestamps_are_event_times_whatever_their_unit(unit: str, held: str, tmp_path: Path, lake: Lake) -> None:
    stamps = pa.array([datetime(2026, 3, 1, 12), datetime(2026, 3, 2, 12)], pa.timestamp(held))
    log = log_of({"t": "int", "v": "int"}, unit)
    found = ingest(log, tmp_path, lake, "2026-03-01", {"t": stamps, "v": [1, 2]})
    assert found[0] == [1]
    assert raw_table(lake, "small", "2026-03-01")["event_time"].to_pylist() == [1772366400_000_000]


def test_a_list_is_refused_by_file_and_column(tmp_path: Path, lake: Lake) -> None:
    with pytest.raises(WrongFile, match=r"2026-03-01\.parquet: column 'v' is list<element: string>, which cannot be read"):
        ingest(log_of({"t": "int", "v": "string"}), tmp_path, lake, "2026-03-01", {"t": [1], "v": [["a", "b"]]})
    assert not lake.has("raw_logs", "small", "2026-03-01")


def test_nan_is_missing_if_it_is_a_null_token() -> None:
    values = pa.array([1.0, float("nan"), None, float("inf")])
    for kind, one in (("float", 1.0), ("int", 1), ("string", "1"), ("bool", True)):
        found = type_column(pa.chunked_array([values]), kind, ValueRules(("", "NaN")))  # type: ignore[arg-type]
        assert found.values.to_pylist()[:3] == [one, None, None] and found.wrong.tolist() == [False, False, False, True]
        strict = type_column(pa.chunked_array([values]), kind, ValueRules(("",)))  # type: ignore[arg-type]
        assert strict.wrong.tolist() == [False, True, False, True]
