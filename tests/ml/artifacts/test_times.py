"""Times have one meaning, `time.unit`, in every file format and in rows that a caller sends."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml.artifacts.raw_columns import RawColumns
from ml.catalog.spec import DatasetSpec
from ml.compute.runner import LocalRunner
from ml.features.transforms import compile_transforms
from ml.lake import Lake
from ml.logs.ingest import ingest_day
from ml.logs.read import raw_table

DAY = "2026-01-02"
MICROS = np.array([1_767_312_000_000_000, 1_767_346_245_000_000, 1_767_398_399_000_000])  # 00:00, 09:30:45 and 23:59:59 UTC
PER_UNIT = {"s": 1_000_000, "ms": 1_000, "us": 1}
UNITS = ("s", "ms", "us", "ns", "iso8601")


def spec_of(unit: str, held: str = "int", form: str = "csv", **changes: Any) -> DatasetSpec:
    """A log whose time column `at` is also a dense feature if it is a number, and a sparse one."""
    return DatasetSpec.model_validate(
        {
            "name": "hours",
            "description": "A log of hours.",
            "source": {
                "files": "log",
                "format": form,
                **({"header": True} if form == "csv" else {}),
                "columns": {"at": held, "seen": "int", "clicked": "int"},
            },
            "time": {"column": "at", "unit": unit},
            "partitions": {"start": DAY, "end": DAY},
            "label": {"column": "clicked"},
            "dense": [{"name": "age", "column": "at"}] if held != "string" else [],
            "sparse": [{"name": "moment", "column": "at"}, {"name": "hour", "hour_of_day": True}, {"name": "seen"}],
            **changes,
        }
    )


def values_of(unit: str, held: str) -> list[Any]:
    """The times as values of a column in this unit."""
    if unit == "iso8601":
        return [datetime.fromtimestamp(t / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") for t in MICROS.tolist()]
    numbers = (MICROS * 1000 if unit == "ns" else MICROS // PER_UNIT[unit]).tolist()
    return [float(n) for n in numbers] if held == "float" else numbers


def columns_of(values: Any) -> dict[str, Any]:
    return {"at": values, "seen": [1, 2, 3], "clicked": [0, 1, 0]}


def write(path: Path, form: str, columns: dict[str, Any]) -> None:
    if form == "csv":
        pd.DataFrame(columns).to_csv(path, index=False)
    elif form == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in pd.DataFrame(columns).to_dict("records")))
    else:
        pq.write_table(pa.table(columns), path)


def ingested(spec: DatasetSpec, folder: Path, columns: dict[str, Any]) -> pa.RecordBatch:
    write(folder / "log", spec.source.format, columns)
    lake = Lake.at(folder / "lake")
    ingest_day(spec.log, DAY, str(folder), lake, LocalRunner())
    [batch] = raw_table(lake, spec.name, DAY).combine_chunks().to_batches()
    return batch


KINDS = [
    (u, "string" if u == "iso8601" else held) for u in UNITS for held in ("int", "float") if (u, held) != (UNITS[4], "float")
]


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize(("unit", "held"), KINDS)
def test_plain_values_are_in_the_declared_unit_in_every_format(unit: str, held: str, form: str, tmp_path: Path) -> None:
    batch = ingested(spec_of(unit, held, form), tmp_path, columns_of(values_of(unit, held)))
    assert batch["event_time"].to_pylist() == MICROS.tolist()


@pytest.mark.parametrize("kind", [pa.timestamp(u, zone) for u in ("s", "ms", "us", "ns") for zone in (None, "Asia/Kathmandu")])
@pytest.mark.parametrize("unit", UNITS)
def test_timestamps_of_parquet_become_the_declared_unit(unit: str, kind: pa.DataType, tmp_path: Path) -> None:
    held = "string" if unit == "iso8601" else "int"
    stamps = pa.array(MICROS).cast(pa.timestamp("us", kind.tz and "UTC")).cast(kind)
    batch = ingested(spec_of(unit, held, "parquet"), tmp_path, columns_of(stamps) | {"seen": stamps})
    assert batch["event_time"].to_pylist() == MICROS.tolist()
    if held == "int":
        assert batch["at"].to_pylist() == values_of(unit, held)
    assert batch["seen"].to_pylist() == MICROS.tolist()  # a timestamp that is not the event time is in microseconds


def forms(values: list[Any]) -> dict[str, Any]:
    """The rows as callers send them, without `event_time`."""
    columns = columns_of(values)
    texts = {name: [str(v) for v in column] for name, column in columns.items()}
    return {
        "arrow": pa.RecordBatch.from_pydict(columns),
        "arrow text": pa.RecordBatch.from_pydict(texts),
        "pandas": pd.DataFrame(columns),
        "pandas text": pd.DataFrame(texts),
        "json": pa.RecordBatch.from_pylist(json.loads(json.dumps(pd.DataFrame(columns).to_dict("records")))),
    }


@pytest.mark.parametrize("form", list(forms([0, 0, 0])))
@pytest.mark.parametrize(("unit", "held"), KINDS)
def test_rows_to_score_have_times_in_the_unit_of_the_log(unit: str, held: str, form: str, tmp_path: Path) -> None:
    spec = spec_of(unit, held)
    trained = compile_transforms(spec, with_label=False)(ingested(spec, tmp_path, columns_of(values_of(unit, held))))
    check = RawColumns(spec)
    for _ in range(2):  # the second time with the schema of the call before
        sent = check(forms(values_of(unit, held))[form])
        assert sent["event_time"].to_pylist() == MICROS.tolist()
        assert compile_transforms(spec, with_label=False)(sent).equals(trained)


@pytest.mark.parametrize("sent", ["arrow s", "arrow ns", "arrow zone", "pandas", "pandas zone", "objects"])
@pytest.mark.parametrize("unit", UNITS)
def test_timestamps_to_score_are_read_as_those_of_a_log(unit: str, sent: str, tmp_path: Path) -> None:
    spec = spec_of(unit, "string" if unit == "iso8601" else "int", "parquet")
    stamps = pa.array(MICROS).cast(pa.timestamp("us", "UTC" if "zone" in sent else None))
    kinds = {"arrow s": pa.timestamp("s"), "arrow zone": pa.timestamp("us", "UTC")}
    series = pd.Series(stamps.to_pandas())
    at = series.astype(object) if sent == "objects" else series
    columns = columns_of(stamps.cast(kinds.get(sent, pa.timestamp("ns"))) if sent.startswith("arrow") else at)
    rows = pa.RecordBatch.from_pydict(columns) if sent.startswith("arrow") else pd.DataFrame(columns)
    trained = compile_transforms(spec, with_label=False)(ingested(spec, tmp_path, columns_of(stamps)))
    assert compile_transforms(spec, with_label=False)(RawColumns(spec)(rows)).equals(trained)


def test_event_time_is_in_microseconds_and_comes_before_the_column_of_the_log() -> None:
    rows = pa.RecordBatch.from_pydict({"at": [1, 2, 3], "seen": [1, 2, 3], "event_time": MICROS})
    assert RawColumns(spec_of("s"))(rows)["event_time"].to_pylist() == MICROS.tolist()


def test_missing_times_are_refused_by_the_transform() -> None:
    spec = spec_of("s")
    sent = RawColumns(spec)(pd.DataFrame({"at": ["", "1767312000"], "seen": [1, 2]}))
    assert sent["event_time"].to_pylist() == [None, 1_767_312_000_000_000]
    with pytest.raises(ValueError, match="event_time: 1 rows have none"):
        compile_transforms(spec, with_label=False)(sent)


@pytest.mark.parametrize("frame", [False, True])
@pytest.mark.parametrize("unit", ["s", "ms", "ns"])
def test_an_event_time_in_another_unit_is_refused(unit: str, frame: bool) -> None:
    check = RawColumns(spec_of("s"))
    columns = {"at": [1, 2, 3], "seen": [1, 2, 3]}
    batch = pa.RecordBatch.from_pydict({**columns, "event_time": MICROS})
    assert check(batch).equals(batch) and check(batch) is batch  # the schema is known from the first call on
    wrong: Any = {**columns, "event_time": values_of(unit, "int")}
    with pytest.raises(
        TypeError, match=rf"column 'event_time': expected microseconds since 1970-01-01 UTC, found \d+.*'{unit}'"
    ):
        check(pd.DataFrame(wrong) if frame else pa.RecordBatch.from_pydict(wrong))


@pytest.mark.parametrize("times", [[0, 1, 2], [631_152_000_000_000, 2, 3], [-5, -4, -3]])
def test_a_time_that_no_other_unit_explains_is_taken(times: list[int]) -> None:
    rows = pa.RecordBatch.from_pydict({"at": [1, 2, 3], "seen": [1, 2, 3], "event_time": times})
    assert RawColumns(spec_of("s"))(rows)["event_time"].to_pylist() == times


def test_batches_without_a_time_are_returned_as_they_are() -> None:
    spec = spec_of("s", sparse=["seen"], dense=[])
    check, batch = RawColumns(spec), pa.RecordBatch.from_pydict({"seen": [1]})
    assert check(batch).equals(batch) and check(batch) is batch


def test_a_log_of_1970_may_have_small_times() -> None:
    spec = spec_of("s", partitions={"start": "1970-01-01", "end": "1970-12-31"})
    rows = pa.RecordBatch.from_pydict({"at": [1], "seen": [1], "event_time": [1_767_398_400]})
    assert RawColumns(spec)(rows)["event_time"].to_pylist() == [1_767_398_400]
