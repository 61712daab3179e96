"""Rows that a caller sends are read as the log's files are, in whatever form they come."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from ml.artifacts.raw_columns import RawColumns, typed_array, typed_series
from ml.catalog.spec import DatasetSpec
from ml.compute.runner import LocalRunner
from ml.features.transforms import compile_transforms
from ml.lake import Lake
from ml.logs.ingest import ingest_day
from ml.logs.read import raw_table
from ml.logs.typed_columns import ValueRules
from tests.helpers.raw_rows import CLICKED, exact, rows_of

DAY = "2026-01-01"
SPEC = DatasetSpec.model_validate(
    {
        "name": "awkward",
        "description": "A log with values that are easily read in two ways.",
        "source": {
            "files": "log.csv",
            "format": "csv",
            "header": True,
            "columns": {"time": "int", "who": "int", "word": "string", "price": "float", "member": "bool", "clicked": "int"},
            "null_tokens": ["", "NA", "-"],
        },
        "time": {"column": "time", "unit": "s"},
        "partitions": {"start": DAY, "end": DAY},
        "label": {"column": "clicked"},
        "dense": ["price", {"name": "is_member", "column": "member"}],
        "sparse": ["who", "word", {"name": "who_x_word", "cross": ["who", "word"]}],
    }
)
ROWS = 500


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The log as text, as in its file."""
    rng = np.random.default_rng(3)
    return pd.DataFrame(
        {
            "time": (1_767_225_600 + np.sort(rng.integers(0, 86_400, ROWS))).astype(str),
            "who": rng.choice(["", "NA", "7", "-12", " 7", "8 ", "9007199254740993"], ROWS),
            "word": rng.choice(["", "NA", "-", "nan", "None", "n/a", " x", "x", "ä", "東京", "1.0", "1"], ROWS),
            "price": rng.choice(["", "NA", "-", "0", "-0.0", "1e-3", "12.5", " 12.5 "], ROWS),
            "member": rng.choice(["", "NA", "true", "false"], ROWS),
            "clicked": rng.choice(["0", "1"], ROWS),
        }
    )


@pytest.fixture(scope="module")
def ingested(texts: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> pa.RecordBatch:
    """The rows as ingestion reads them."""
    folder = tmp_path_factory.mktemp("log")
    texts.to_csv(folder / "log.csv", index=False)
    lake = Lake.at(folder / "lake")
    ingest_day(SPEC.log, DAY, str(folder), lake, LocalRunner())
    [batch] = raw_table(lake, SPEC.name, DAY).combine_chunks().to_batches()
    assert len(batch) == ROWS
    return batch


def features(batch: pa.RecordBatch) -> pa.RecordBatch:
    times = pa.array(np.zeros(len(batch), np.int64))
    if "event_time" not in batch.schema.names:
        batch = batch.add_column(0, "event_time", times)
    else:
        batch = batch.set_column(batch.schema.get_field_index("event_time"), "event_time", times)
    return compile_transforms(SPEC, with_label=False)(batch)


def test_text_is_read_as_in_the_log(texts: pd.DataFrame, ingested: pa.RecordBatch) -> None:
    check = RawColumns(SPEC)
    assert features(check(texts)).equals(features(ingested))
    as_arrow = pa.RecordBatch.from_pydict({name: texts[name].tolist() for name in texts})
    for _ in range(2):  # the second time with the schema of the call before
        assert features(check(as_arrow)).equals(features(ingested))


def test_pandas_reads_the_file_itself(texts: pd.DataFrame, ingested: pa.RecordBatch, tmp_path: Path) -> None:
    texts.to_csv(tmp_path / "log.csv", index=False)
    kinds = {"who": "Int64", "word": "string", "price": "float64", "member": "boolean"}
    frame = pd.read_csv(tmp_path / "log.csv", dtype=kinds, na_values=["", "NA", "-"], keep_default_na=False)
    assert features(RawColumns(SPEC)(frame)).equals(features(ingested))
    objects = frame.astype(object).where(frame.notna(), None)
    assert features(RawColumns(SPEC)(objects)).equals(features(ingested))


def test_json_records_are_read_as_in_the_log(ingested: pa.RecordBatch) -> None:
    records = json.loads(json.dumps(ingested.select(["who", "word", "price", "member"]).to_pylist()))
    assert features(RawColumns(SPEC)(pa.RecordBatch.from_pylist(records))).equals(features(ingested))
    objects = {name: pd.Series([record[name] for record in records], dtype=object) for name in records[0]}
    assert features(RawColumns(SPEC)(pd.DataFrame(objects))).equals(features(ingested))


LIST = pa.list_(pa.int64())


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (pd.Series([2.0**53, np.nan]), pa.int64()),
        (pd.Series([2.0**53, None], dtype=object), pa.int64()),
        (pd.Series([2**24, 1], dtype=np.float32), pa.int64()),
        (pd.Series([[1, -(2.0**53)], None]), LIST),
        (pd.Series([np.array([2**24, 1], np.float32), None]), LIST),
        (pd.Series([1 + 2j]), pa.float64()),
        (pd.Series([pd.Timestamp("2026-01-01")]), pa.bool_()),
    ],
)
def test_ambiguous_and_unreadable_values_are_refused_by_column(values: pd.Series, kind: pa.DataType) -> None:
    with pytest.raises(TypeError, match="column 'who': declared"):
        typed_series("who", values, kind)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (pd.Series([2.0**53 - 1, np.nan]), pa.int64()),
        (pd.Series([2**24 - 1, 1], dtype=np.float32), pa.int64()),
        (pd.Series([2**53, None], dtype="Int64"), pa.int64()),
        (pd.Series([[2**53 + 1, 1], None, []]), LIST),
    ],
)
def test_exact_values_are_read(values: pd.Series, kind: pa.DataType) -> None:
    assert typed_series("who", values, kind).to_pylist()[0] in (2**53 - 1, 2**24 - 1, 2**53, [2**53 + 1, 1])


@pytest.mark.parametrize("declared", [pa.int64(), LIST])
@pytest.mark.parametrize(("kind", "exact_below"), [(pa.float32(), 2**24), (pa.float64(), 2**53)])
def test_floats_of_a_record_batch_are_read_as_ints_or_refused(
    declared: pa.DataType, kind: pa.DataType, exact_below: int
) -> None:
    def column(number: int) -> pa.Array:
        values = pa.array([float(number), None, 1.0], kind)
        return values if declared == pa.int64() else pa.ListArray.from_arrays(pa.array([0, 3]), values)

    read = typed_array("who", column(exact_below - 1), declared)
    assert read.type == declared and (read if declared == pa.int64() else read.flatten())[0].as_py() == exact_below - 1
    with pytest.raises(TypeError, match=r"column 'who': declared .* ints were sent as floats that are too large"):
        typed_array("who", column(-exact_below), declared)


INT, FLOAT, TEXT, BOOL = pa.int64(), pa.float64(), pa.string(), pa.bool_()


def in_every_form(values: list[object], kind: pa.DataType, read: Callable[[Callable[[], pa.Array]], None]) -> None:
    """Call `read` with a function that types the values, for each form in which a caller can hold them."""
    array = pa.array(values, from_pandas=True)
    held = [
        pd.Series(values),
        pd.Series(values, dtype=object),
        pd.Series(pd.arrays.ArrowExtensionArray(pa.chunked_array([array]))),
    ]
    held += [] if pa.types.is_list(array.type) else [pd.Series(values).astype("category")]
    read(lambda: typed_array("who", pa.array(values), kind, ValueRules(TOKENS)))
    for series in held:
        read(lambda series=series: typed_series("who", series, kind, ValueRules(TOKENS)))


TOKENS = ("", "-")
NAN = float("nan")


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([" 7", "8\t", "-", None], INT, [7, 8, None, None]),
        ([" 1.5", "1e3", ""], FLOAT, [1.5, 1000.0, None]),
        (["True", "0", "-"], BOOL, [True, False, None]),
        ([7.0, NAN], INT, [7, None]),
        ([1, 0, None], BOOL, [True, False, None]),
        ([1.0, NAN, 0.0], BOOL, [True, None, False]),
        ([1995.0, NAN], TEXT, ["1995", None]),
        ([1, 2], TEXT, ["1", "2"]),
        ([2.5], TEXT, ["2.5"]),
        ([2**53 + 1], FLOAT, [2.0**53]),
        ([["1", " 2", "-"], None, []], LIST, [[1, 2, None], None, []]),
        ([[1.0, 2.0], None], LIST, [[1, 2], None]),
    ],
)
def test_values_are_read_as_in_a_log_in_whatever_form_they_are_sent(
    values: list[object], kind: pa.DataType, expected: list[object]
) -> None:
    def read(typed: Callable[[], pa.Array]) -> None:
        assert (typed().type, typed().to_pylist()) == (kind, expected)

    in_every_form(values, kind, read)


@pytest.mark.parametrize(
    ("values", "kind", "said"),
    [
        ([7.5, 1.0], INT, "1 of 2 values of double cannot be converted; the first is 7.5"),
        ([1, 2], BOOL, "1 of 2 values of int64 cannot be converted; the first is 2"),
        ([0.5, NAN], BOOL, "1 of 2 values of double cannot be converted; the first is 0.5"),
        ([1e16], TEXT, "ints were sent as floats that are too large"),
        (["7.0"], INT, "1 of 1 values of .*string cannot be converted; the first is '7.0'"),
        (["nan"], FLOAT, "1 of 1 values of .*string cannot be converted; the first is 'nan'"),
        (["yes", "-"], BOOL, "1 of 2 values of .*string cannot be converted; the first is 'yes'"),
        ([[1.5]], LIST, "1 of 1 values of double cannot be converted"),
        ([7], LIST, "found int64"),
    ],
)
def test_values_that_a_log_would_not_read_are_refused_in_whatever_form(
    values: list[object], kind: pa.DataType, said: str
) -> None:
    def read(typed: Callable[[], pa.Array]) -> None:
        with pytest.raises(TypeError, match=f"column 'who': declared .*{said}"):
            typed()

    in_every_form(values, kind, read)


def test_the_clock_is_read_in_its_own_unit() -> None:
    """As a feature, the log's time column holds ints of the unit that the entry declares."""
    spec = SPEC.model_copy(update={"sparse": (SPEC.sparse[0].model_copy(update={"name": "time", "column": "time"}),)})
    stamps = pa.array([1_767_276_000], pa.timestamp("s"))
    for rows in (pa.RecordBatch.from_pydict({"time": stamps}), pd.DataFrame({"time": stamps.to_pandas()})):
        assert RawColumns(spec)(rows)["time"].to_pylist() == [1_767_276_000]


def test_record_batches_of_another_schema_are_checked_again() -> None:
    check = RawColumns(CLICKED)
    (batch,) = rows_of(CLICKED).combine_chunks().to_batches()
    tags = pa.array([text or None for text in batch["tags"].to_pylist()], pa.string())
    batch = batch.set_column(batch.schema.get_field_index("tags"), "tags", tags)
    assert check(batch).column("who").equals(batch["who"]) and check(batch) is batch
    at = batch.schema.get_field_index("who")
    as_text = batch.set_column(at, "who", batch["who"].cast(pa.string()))
    assert check(as_text).column("who").equals(batch["who"]) and check(batch) is batch
    as_floats = batch.set_column(at, "who", pa.array([2.0**53] * len(batch)))
    for _ in range(2):
        with pytest.raises(TypeError, match="column 'who': declared int64: ints were sent as floats"):
            check(as_floats)


def test_a_column_that_occurs_twice_is_refused() -> None:
    (batch,) = rows_of(CLICKED).combine_chunks().to_batches()
    frame = exact(rows_of(CLICKED))
    twice = pa.RecordBatch.from_arrays([*batch.columns, batch["who"]], names=[*batch.schema.names, "who"])
    with pytest.raises(KeyError, match="who"):
        RawColumns(CLICKED)(twice)
    with pytest.raises(TypeError, match=r"'who'.* occur more than once"):
        RawColumns(CLICKED)(pd.concat([frame, frame[["who"]]], axis=1))


@pytest.mark.parametrize("missing", [None, float("nan"), ""])
def test_missing_text_is_null_however_it_is_sent(missing: object) -> None:
    check = RawColumns(CLICKED)
    for values in ([missing] * 3, ["p", missing, "q"]):
        expected = [v if v in ("p", "q") else None for v in values]
        assert check(pd.DataFrame({"tags": values})).column("tags").to_pylist() == expected
        if not isinstance(missing, float):
            for _ in range(2):
                assert (
                    check(pa.RecordBatch.from_pydict({"tags": pa.array(values, pa.string())}))["tags"].to_pylist() == expected
                )
    texts = ["7", missing]
    assert check(pd.DataFrame({"who": texts})).column("who").to_pylist() == [7, None]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "America/Sao_Paulo"])
def test_times_are_read_in_their_own_unit(unit: str, zone: str | None) -> None:
    micros = 1_767_276_000_000_000
    stamps = pa.array([micros, None], pa.timestamp("us", zone and "UTC")).cast(pa.timestamp(unit, zone))
    assert typed_array("event_time", stamps, pa.int64()).to_pylist() == [micros, None]
    series = pd.Series(stamps.to_pandas())
    for held in (series, series.astype(object)):
        assert typed_series("event_time", held, pa.int64()).to_pylist() == [micros, None]


def test_durations_are_not_ints() -> None:
    for column in (pd.Series(pd.to_timedelta([1, 2], unit="s")), pd.Series(pd.to_timedelta([1, 2], unit="s"), dtype=object)):
        with pytest.raises(TypeError, match="column 'who': declared int64, found duration"):
            typed_series("who", column, pa.int64())


def test_columns_of_a_record_batch_are_cast_or_refused_by_name() -> None:
    text = pa.array(["7", None])
    assert typed_array("who", text, pa.int64()).to_pylist() == [7, None]
    encoded = text.dictionary_encode()
    assert typed_array("who", encoded, pa.string()) is encoded
    with pytest.raises(TypeError, match="column 'who': declared int64"):
        typed_array("who", pa.array(["seven"]), pa.int64())
