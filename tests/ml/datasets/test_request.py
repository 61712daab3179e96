"""Batches of requests equal the batches of the feature table without labels, and reading a label raises a clear error."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pcsv
import pytest
import torch

from ml.catalog.spec import DatasetSpec
from ml.datasets.batch import Batch, Unlabelled
from ml.datasets.collate import batch_from_arrow
from ml.datasets.request import RequestTransform
from ml.features.transforms import compile_transforms
from ml.schema import ARROW_TYPES, FeatureSchema
from tests.helpers.shop_features import shop, shop_day
from tests.ml.features.test_transforms import as_batch, some_vocabularies


def assert_same_features(one: Batch, other: Batch) -> None:
    assert len(one) == len(other)
    assert torch.equal(one.dense, other.dense) and one.dense.is_contiguous()
    assert one.sparse.keys() == other.sparse.keys() and one.sparse.stride() == other.sparse.stride()
    for name in ("values", "lengths", "offsets"):
        mine, theirs = getattr(one.sparse, name)(), getattr(other.sparse, name)()
        assert mine.dtype == theirs.dtype and torch.equal(mine, theirs), name


@pytest.mark.parametrize("rows", [1, 3, 250])
def test_a_request_equals_the_batch_of_the_feature_table(rows: int) -> None:
    spec = shop()
    words = some_vocabularies(spec)[1]
    day = as_batch(shop_day(spec, 0, rows))
    trained = batch_from_arrow(compile_transforms(spec, words)(day), FeatureSchema.of(spec))
    request = RequestTransform(spec, words)(day.drop_columns(["click"]))
    assert_same_features(request, trained)
    assert trained.is_labelled and not request.is_labelled
    unlabelled = batch_from_arrow(compile_transforms(spec, words, with_label=False)(day), FeatureSchema.of(spec))
    assert_same_features(unlabelled, trained)
    assert not unlabelled.is_labelled


def test_rows_of_the_real_log_one_by_one(catalog: dict[str, DatasetSpec], real_logs: Path) -> None:
    spec, schema = catalog["criteo"], FeatureSchema.of(catalog["criteo"])
    log = pcsv.open_csv(
        real_logs / "criteo" / "train.txt.gz",
        read_options=pcsv.ReadOptions(column_names=list(spec.source.columns), block_size=1 << 18),
        parse_options=pcsv.ParseOptions(delimiter="\t"),
        convert_options=pcsv.ConvertOptions(
            column_types={name: ARROW_TYPES[kind] for name, kind in spec.source.columns.items()}, strings_can_be_null=True
        ),
    ).read_next_batch()
    timed = log.append_column("event_time", pa.array([0] * len(log), pa.int64()))
    table = compile_transforms(spec)(timed)
    request = RequestTransform(spec)
    assert len(log) > 500
    assert_same_features(request(log), batch_from_arrow(table, schema))
    for row in range(0, len(log), 17):
        assert_same_features(request(log.slice(row, 1)), batch_from_arrow(table.slice(row, 1), schema))


@pytest.mark.parametrize("name", ["labels", "sample_rate", "event_time"])
def test_the_error_names_the_missing_field(name: str) -> None:
    spec = shop(sparse=["item"])
    batch = RequestTransform(spec)(as_batch(shop_day(spec, 0, 4)))
    with pytest.raises(Unlabelled, match=f"^the batch has no {name}: it was made from a request"):
        getattr(batch, name)


def test_rows_of_a_request_stay_unlabelled() -> None:
    spec = shop()
    transform = RequestTransform(spec, some_vocabularies(spec)[1])
    day = as_batch(shop_day(spec, 0, 9))
    kept = torch.tensor([True, False, False, True, True, False, False, False, True])
    some = transform(day).rows(kept)
    assert_same_features(some, transform(as_batch(pa.Table.from_batches([day.filter(pa.array(kept.numpy()))]))))
    assert not some.is_labelled
