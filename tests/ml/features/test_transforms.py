"""The compiled function equals a slow reference in plain Python, for whole tables, single rows, Spark tasks and requests."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.catalog.spec import DatasetSpec, DenseColumn, SparseColumn
from ml.compute.runner import SparkRunner
from ml.features.dense import dense_values
from ml.features.sparse import SparseFeature
from ml.features.transforms import LabelError, Transform, compile_transforms
from ml.features.vocabulary import Vocabulary
from ml.schema import FIRST_ID, MISSING_ID, OOV_ID, arrow_schema
from tests.helpers.shop_features import DAY, DAY_0, shop, shop_day
from tests.ml.features.test_hashing import reference, signed

FLOAT32_MAX = float(np.finfo(np.float32).max)


def chained(feature: str, values: list[Any]) -> int:
    import struct

    import xxhash

    ids = [reference(feature, value) for value in values]
    if MISSING_ID in ids:
        return MISSING_ID
    h = ids[0]
    for part in ids[1:]:
        h = signed(xxhash.xxh64_intdigest(struct.pack("<q", part), h % 2**64))
    return h


def slow_dense(column: DenseColumn, x: float | int | bool | None) -> float:
    x = column.fill if x is None or not math.isfinite(x) else float(x)
    low, high = column.clip or (None, None)
    x = x if low is None else max(x, low)
    x = x if high is None else min(x, high)
    x = math.log1p(max(x, 0.0)) if column.log1p else x
    return float(np.float32(min(max(x * column.scale, -FLOAT32_MAX), FLOAT32_MAX)))


def slow_sparse(spec: DatasetSpec, column: SparseColumn, row: dict[str, Any]) -> Any:
    """Computes the id or the list of ids: hashes, except for hours and buckets, which are numbered."""
    if column.cross:
        return chained(column.name, [row[c] for c in column.cross])
    if column.hour_of_day:
        when = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=row["event_time"])
        return FIRST_ID + when.astimezone(spec.zone).hour
    value = row[column.column or ""]
    if column.split:
        parts = [part for part in (value or "").split(column.split) if part][: column.max_values]
        return [reference(column.name, part) for part in parts] or [MISSING_ID]
    if column.bucketise:
        missing = value is None or not math.isfinite(value)
        return MISSING_ID if missing else FIRST_ID + sum(value >= edge for edge in column.bucketise)
    return reference(column.name, value)


def slow_row(spec: DatasetSpec, row: dict[str, Any], known: dict[str, dict[int, int]]) -> dict[str, Any]:
    out: dict[str, Any] = {"event_time": row["event_time"], "label": float(row["click"]), "sample_rate": 1.0}
    out |= {d.name: slow_dense(d, row[d.column]) for d in spec.dense}
    for s in spec.sparse:
        ids = slow_sparse(spec, s, row)
        if s.vocabulary:
            look = {MISSING_ID: MISSING_ID, **known[s.name]}
            ids = [look.get(i, OOV_ID) for i in ids] if s.split else look.get(ids, OOV_ID)
        out[s.name] = ids
    out |= {"key:user": reference("key:user", row["user"]), "key:item": reference("key:item", row["item"])}
    out |= {f"slice:{c}": None if row[c] is None else str(row[c]) for c in spec.slices}
    return out


def some_vocabularies(spec: DatasetSpec) -> tuple[dict[str, dict[int, int]], dict[str, Vocabulary]]:
    words = {
        "country_id": [reference("country_id", w) for w in ("BR", "naïve", "")],
        "tag_words": [reference("tag_words", w) for w in ("a", "ü")],
        "country_x_count": [chained("country_x_count", ["BR", n]) for n in (-1, 0, 1)],
    }
    known = {name: {key: n + 2 for n, key in enumerate(keys)} for name, keys in words.items()}
    return known, {n: Vocabulary.of(np.array(list(k)), np.array(list(k.values()))) for n, k in known.items()}


def as_batch(table: pa.Table) -> pa.RecordBatch:
    return table.combine_chunks().to_batches()[0]


def test_every_transform_equals_the_slow_reference() -> None:
    spec = shop()
    known, vocabularies = some_vocabularies(spec)
    day = shop_day(spec, 0, 400)
    got = compile_transforms(spec, vocabularies)(as_batch(day))
    assert got.schema.equals(arrow_schema(spec), check_metadata=True)
    assert got.to_pylist() == [slow_row(spec, row, known) for row in day.to_pylist()]


def test_a_table_equals_its_rows_one_by_one_in_every_layout() -> None:
    spec = shop()
    transform = compile_transforms(spec, some_vocabularies(spec)[1])
    day = shop_day(spec, 1, 60)
    whole = transform(as_batch(day))
    batch = as_batch(day)
    rows = [transform(batch.slice(i, 1)) for i in range(len(batch))]
    assert pa.Table.from_batches(rows).combine_chunks().equals(pa.table(whole))
    encoded = day.set_column(3, "country", day["country"].dictionary_encode()).combine_chunks()
    assert transform(as_batch(encoded)).equals(whole)
    assert transform(batch.slice(0, 0)).num_rows == 0


def test_a_request_needs_no_label_and_gives_the_same_features() -> None:
    spec = shop()
    vocabularies = some_vocabularies(spec)[1]
    day = as_batch(shop_day(spec, 2, 50))
    trained = compile_transforms(spec, vocabularies)(day)
    asked = compile_transforms(spec, vocabularies, with_label=False)(day.drop_columns(["click"]))
    assert asked.equals(trained.select(asked.schema.names))
    left_out = [name for name in trained.schema.names if name not in asked.schema.names]
    assert left_out == ["label", "sample_rate", "slice:country", "slice:count"]


@pytest.mark.slow
def test_spark_tasks_run_the_same_function(spark) -> None:  # type: ignore[no-untyped-def]
    spec = shop()
    known, vocabularies = some_vocabularies(spec)
    day = shop_day(spec, 3, 90)
    here = compile_transforms(spec, vocabularies)(as_batch(day)).to_pylist()
    parts = [day.slice(i, 30).to_pylist() for i in (0, 30, 60)]
    there = SparkRunner(spark).map(_apply(spec, known), parts)
    assert [row for part in there for row in part] == here


def _apply(spec: DatasetSpec, known: dict[str, dict[int, int]]):  # type: ignore[no-untyped-def]
    # Spark's workers cannot import this test module, so the function is pickled by value; it imports only the library.
    def apply(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        words = {n: Vocabulary.of(np.array(list(k)), np.array(list(k.values()))) for n, k in known.items()}
        types = {"user": pa.int64(), "item": pa.int64(), "country": pa.string(), "tags": pa.string(), "price": pa.float64()}
        types |= {"count": pa.int64(), "member": pa.bool_(), "click": pa.int64(), "event_time": pa.int64()}
        batch = pa.RecordBatch.from_pylist(rows, schema=pa.schema(list(types.items())))
        return compile_transforms(spec, words)(batch).to_pylist()

    return apply


NUMBERS = st.one_of(st.none(), st.floats(), st.integers(-(2**63), 2**63 - 1).map(float))


@given(
    st.lists(NUMBERS, max_size=30),
    st.floats(-1e6, 1e6),
    st.tuples(st.one_of(st.none(), st.floats(-1e3, 0)), st.one_of(st.none(), st.floats(1, 1e6))),
    st.booleans(),
    st.floats(-1e300, 1e300),
)
def test_dense_is_finite_and_equals_the_reference(values, fill, clip, log1p, scale) -> None:  # type: ignore[no-untyped-def]
    column = DenseColumn(name="x", fill=fill, clip=clip, log1p=log1p, scale=scale)
    got = dense_values(column, pa.array(values, pa.float64()))
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got, [slow_dense(column, v) for v in values], rtol=1e-6)


@given(st.lists(st.one_of(st.none(), st.text("ab|ü", max_size=12)), max_size=20), st.sampled_from(["|", "||", "ü", "ab"]))
def test_split_equals_python_split(values: list[str | None], separator: str) -> None:
    spec = shop()
    column = SparseColumn(name="tags", split=separator, max_values=3)
    feature = SparseFeature(column, spec.column_types, spec.zone)
    batch = pa.record_batch({"tags": pa.array(values, pa.string())})
    keys = feature.keys(batch)
    assert keys.to_arrow(keys.values).to_pylist() == [slow_sparse(spec, column, {"tags": v}) for v in values]


@given(st.lists(st.integers(-(2**40), 2**52), max_size=50), st.sampled_from(["America/Sao_Paulo", "Asia/Kathmandu"]))
def test_hour_of_day_is_in_the_time_zone_on_every_date(times: list[int], zone: str) -> None:
    changes = [DAY_0 - 804 * DAY + hour * 3_600_000_000 for hour in range(72)]  # Brazil's clocks went forward on 2017-10-15
    hour = SparseColumn(name="hour", hour_of_day=True)
    spec = shop(time={"by_position": True, "timezone": zone})
    batch = pa.record_batch({"event_time": pa.array(times + changes)})
    got = SparseFeature(hour, {}, ZoneInfo(zone)).keys(batch).values
    assert got.tolist() == [slow_sparse(spec, hour, {"event_time": t}) for t in times + changes]


def test_label_rules() -> None:
    batch = as_batch(shop_day(shop(), 4, 10)).drop_columns(["click"])

    def labels(rule: dict[str, Any], values: pa.Array) -> list[float]:
        spec = shop(label={"column": "click", **rule})
        return _label_only(spec)(batch.slice(0, len(values)).append_column("click", values))["label"].to_pylist()

    assert labels({}, pa.array([1, 0, 1])) == [1.0, 0.0, 1.0]
    assert labels({"at_least": 3.5}, pa.array([3, 4, 5])) == [0.0, 1.0, 1.0]
    with pytest.raises(LabelError, match=r"'click': 2 of 3 rows are not 0 or 1; the first such value is 2;"):
        labels({}, pa.array([1, 2, 3]))
    with pytest.raises(LabelError, match="1 of 2 rows are not a number; the first such value is None"):
        labels({"at_least": 3.5}, pa.array([1, None]))


def _label_only(spec: DatasetSpec) -> Transform:
    return compile_transforms(spec, {s.name: Vocabulary.empty() for s in spec.sparse if s.vocabulary})


def test_errors_name_what_is_missing() -> None:
    spec = shop()
    with pytest.raises(ValueError, match=r"no vocabulary given for \['country_id', 'country_x_count', 'tag_words'\]"):
        compile_transforms(spec)
    transform = _label_only(spec)
    batch = as_batch(shop_day(spec, 5, 5))
    with pytest.raises(KeyError, match="no column 'price'"):
        transform(batch.drop_columns(["price"]))
    words = batch.set_column(5, "price", pa.array(["a"] * 5))
    with pytest.raises(TypeError, match="column 'price': declared float, found string"):
        transform(words)
    with pytest.raises(ValueError, match="event_time: 5 rows have none"):
        transform(batch.set_column(0, "event_time", pa.nulls(5, pa.int64())))


def test_a_session_is_a_hashed_key_that_a_request_does_not_need() -> None:
    spec = shop(session={"column": "count"}, sparse=["country"], slices=[])
    rows = shop_day(spec, 0, 200)
    (batch,) = rows.combine_chunks().to_batches()
    made = compile_transforms(spec)(batch)
    assert made["key:session"].to_pylist() == [reference("key:session", value) for value in rows["count"].to_pylist()]
    assert "key:session" not in compile_transforms(spec, with_label=False)(batch).schema.names
