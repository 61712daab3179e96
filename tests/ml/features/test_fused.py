"""The compiled pass for requests gives the same values as the feature table, bit for bit, in every Arrow layout."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.catalog.spec import DatasetSpec
from ml.features.fused import FeatureArrays, FusedTransform
from ml.features.transforms import compile_transforms
from ml.features.vocabulary import Vocabulary
from ml.schema import FeatureSchema
from tests.helpers.shop_features import DAY, shop, shop_day
from tests.ml.features.test_transforms import as_batch, some_vocabularies

SPEC = shop()
WORDS = some_vocabularies(SPEC)[1]
FUSED = FusedTransform(SPEC, WORDS)
TABLE = compile_transforms(SPEC, WORDS, with_label=False)
COLUMNS = ["event_time", "item", "country", "tags", "price", "count", "member", "user"]


def arrays_of(table: pa.RecordBatch, spec: DatasetSpec) -> FeatureArrays:
    """Builds the arrays of a feature table column by column."""
    schema = FeatureSchema.of(spec)
    lists = [table[name].to_pylist() for name in schema.multi]
    ids = [id_ for name in schema.single for id_ in table[name].to_pylist()]
    ids += [id_ for column in lists for row in column for id_ in row]
    lengths = [1] * (len(schema.single) * len(table)) + [len(row) for column in lists for row in column]
    dense = np.array([table[name].to_numpy() for name in schema.dense], np.float32).reshape(len(schema.dense), len(table)).T
    return FeatureArrays(dense, np.array(ids, np.int64), np.array(lengths, np.int32))


def assert_same(mine: FeatureArrays, theirs: FeatureArrays) -> None:
    for name in ("dense", "ids", "lengths"):
        one, other = getattr(mine, name), getattr(theirs, name)
        assert one.dtype == other.dtype and one.shape == other.shape, name
        assert one.tobytes() == np.ascontiguousarray(other).tobytes(), name


@pytest.mark.parametrize("rows", [0, 1, 2, 7, 9, 300])
def test_rows_equal_the_rows_of_the_feature_table(rows: int) -> None:
    batch = as_batch(shop_day(SPEC, 0, max(rows, 1), seed=rows)).slice(0, rows).select(COLUMNS)
    assert_same(FUSED(batch), arrays_of(TABLE(batch), SPEC))


@given(begin=st.integers(0, 60), count=st.integers(0, 20), seed=st.integers(0, 3))
def test_a_slice_of_a_batch_may_begin_anywhere(begin: int, count: int, seed: int) -> None:
    batch = as_batch(shop_day(SPEC, seed, 60)).select(COLUMNS).slice(begin, count)
    assert_same(FUSED(batch), arrays_of(TABLE(batch), SPEC))


@pytest.mark.parametrize(
    "change",
    [
        {"country": lambda column: column.dictionary_encode()},
        {"country": lambda column: column.cast(pa.large_string())},
        {"item": lambda column: column.cast(pa.int32()), "price": lambda column: column.cast(pa.float32())},
        {"count": lambda column: pa.nulls(len(column)), "country": lambda column: pa.nulls(len(column))},
        {"member": lambda column: pa.nulls(len(column), pa.bool_())},
        {"country": lambda column: pa.array([""] * len(column))},
        {"country": lambda column: column.fill_null("x"), "count": lambda column: column.fill_null(0)},
    ],
    ids=["dictionary", "large string", "narrow numbers", "null type", "only nulls", "only empty strings", "no nulls"],
)
def test_other_arrow_types_and_empty_buffers(change: dict[str, Any]) -> None:
    batch = as_batch(shop_day(SPEC, 2, 50)).select(COLUMNS)
    for name, make in change.items():
        batch = batch.set_column(batch.schema.get_field_index(name), name, make(batch[name]))
    assert_same(FUSED(batch), arrays_of(TABLE(batch), SPEC))


def test_schemas_may_alternate() -> None:
    batch = as_batch(shop_day(SPEC, 1, 20)).select(COLUMNS)
    turned = batch.select(COLUMNS[::-1])
    for given_ in (batch, turned, batch):
        assert_same(FUSED(given_), arrays_of(TABLE(batch), SPEC))


def test_columns_that_no_feature_needs_may_be_missing() -> None:
    spec = shop(sparse=["country", {"name": "bucket", "column": "count", "bucketise": [0, 2.5]}], dense=["price"])
    batch = as_batch(shop_day(spec, 0, 30))
    needed = batch.select(["country", "price", "count"])
    assert_same(FusedTransform(spec)(needed), arrays_of(compile_transforms(spec)(batch), spec))
    only_ids = shop(dense=[], sparse=["item"])
    assert_same(FusedTransform(only_ids)(batch), arrays_of(compile_transforms(only_ids)(batch), only_ids))
    only_lists = shop(dense=[], sparse=[{"name": "tags", "split": "||"}])
    assert_same(FusedTransform(only_lists)(batch), arrays_of(compile_transforms(only_lists)(batch), only_lists))


def test_histories_are_ids_in_the_batch() -> None:
    spec = shop(
        source=SPEC.source.model_dump(mode="json"),
        label={"negatives": {"per_positive": 2, "window_hours": 6}},
        sparse=["item", {"name": "last_items", "history": 3}],
        dense=[],
        slices=[],
    )
    batch = as_batch(shop_day(spec, 0, 3)).select(["event_time", "item"])
    past = batch.append_column("history:last_items", pa.array([[5, 6], [], [7]], pa.list_(pa.int64())))
    assert FusedTransform(spec)(past).ids.tolist()[3:] == [5, 6, 0, 7]
    assert FusedTransform(spec)(past).lengths.tolist() == [1, 1, 1, 2, 1, 1]
    assert FusedTransform(spec)(batch).ids.tolist()[3:] == [0, 0, 0]


def test_errors_name_the_column() -> None:
    batch = as_batch(shop_day(SPEC, 0, 5)).select(COLUMNS)
    for name in ("country", "price", "tags"):
        with pytest.raises(KeyError, match=f"no column '{name}'"):
            FUSED(batch.drop_columns([name]))
    words = batch.set_column(5, "count", pa.array(["many"] * 5))
    with pytest.raises(TypeError, match="column 'count': declared int, found string"):
        FUSED(words)
    timeless = batch.set_column(0, "event_time", pa.array([DAY, None, DAY, DAY, DAY]))
    with pytest.raises(ValueError, match="event_time: 1 rows have none"):
        FUSED(timeless)
    with pytest.raises(ValueError, match=r"no vocabulary given for \['country_x_count', 'tag_words'\]"):
        FusedTransform(SPEC, {"country_id": Vocabulary.empty()})
