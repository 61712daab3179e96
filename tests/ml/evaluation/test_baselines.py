"""Baselines learn only from the given days, are reproducible, and are good enough to compare with."""

from __future__ import annotations

import csv
import gzip
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ml.catalog.spec import DatasetSpec
from ml.evaluation.baselines import fit_baselines
from ml.evaluation.design import BUCKETS, Design
from ml.evaluation.rows import earlier_days
from ml.features.transforms import compile_transforms
from ml.lake import Lake
from ml.metrics import auc
from ml.schema import FeatureSchema
from tests.helpers.shop_days import put_day, shop_day, spec_of

DAYS = ["2026-01-01", "2026-01-02", "2026-01-03"]


@pytest.fixture
def spec(lake: Lake) -> DatasetSpec:
    spec = spec_of()
    for day in DAYS:
        put_day(lake, spec, day, shop_day(spec, day, 4_000))
    return spec


def test_the_regression_comes_close_to_the_best_possible_auc(lake: Lake, spec: DatasetSpec) -> None:
    fitted = fit_baselines(lake, spec, DAYS)["logistic_regression"]
    today = shop_day(spec, "2026-01-04", 4_000)
    labels = today["label"].to_numpy()
    best, found = auc(labels, today["oracle"].to_numpy()), auc(labels, fitted.predict(today))  # type: ignore[misc]
    assert best is not None and found is not None
    assert found - 0.5 > 0.85 * (best - 0.5)
    assert fitted.facts["rows_seen"] == fitted.facts["rows_available"] == 12_000
    assert len(fitted.facts["held_out_log_loss"]) == 5


def test_the_constant_prior_is_the_rate_of_all_earlier_rows(lake: Lake, spec: DatasetSpec) -> None:
    rate = np.concatenate([shop_day(spec, day, 4_000)["label"].to_numpy() for day in DAYS]).mean(dtype=np.float64)
    prior = fit_baselines(lake, spec, DAYS, nonzeros=10_000)["constant_prior"]
    assert prior.predict is not None and set(prior.predict(shop_day(spec, "2026-01-04", 9)).tolist()) == {rate}


def test_fitting_twice_gives_the_same(lake: Lake, spec: DatasetSpec) -> None:
    today = shop_day(spec, "2026-01-04", 500)
    first, second = (fit_baselines(lake, spec, DAYS)["logistic_regression"] for _ in range(2))
    assert first.predict is not None and second.predict is not None
    assert first.facts == second.facts and np.array_equal(first.predict(today), second.predict(today))


def test_a_large_window_is_sampled_and_facts_say_so(lake: Lake, spec: DatasetSpec) -> None:
    facts = fit_baselines(lake, spec, DAYS, nonzeros=20_000)["logistic_regression"].facts
    assert facts["rows_available"] == 12_000
    assert abs(facts["rows_seen"] - 20_000 / 7) < 300


def test_the_scored_day_and_later_ones_are_never_among_the_earlier(lake: Lake, spec: DatasetSpec) -> None:
    assert earlier_days(lake, spec.name, "2026-01-02", 7) == ["2026-01-01"]
    assert earlier_days(lake, spec.name, "2026-01-03", 1) == ["2026-01-02"]
    assert earlier_days(lake, spec.name, "2026-01-01", 7) == []
    assert earlier_days(lake, spec.name, "2026-01-20", 7) == []


@pytest.mark.parametrize("labels", [0.0, 1.0])
def test_days_of_one_class_give_no_regression_and_a_reason(labels: float, lake: Lake) -> None:
    spec = spec_of()
    put_day(lake, spec, DAYS[0], shop_day(spec, DAYS[0], 50, label=np.full(50, labels)))
    fitted = fit_baselines(lake, spec, DAYS[:1])
    assert fitted["logistic_regression"].predict is None
    assert "one class" in fitted["logistic_regression"].facts["reason"]
    assert fitted["constant_prior"].facts["rate"] == labels


@pytest.mark.parametrize("rows", [0, 1, 2, 5])
def test_a_few_rows_are_no_error(rows: int, lake: Lake) -> None:
    spec = spec_of()
    put_day(lake, spec, DAYS[0], shop_day(spec, DAYS[0], rows, label=np.arange(rows) % 2))
    fitted = fit_baselines(lake, spec, DAYS[:1])
    assert (fitted["constant_prior"].predict is None) == (rows == 0)
    assert (fitted["logistic_regression"].predict is None) == (rows < 2)


def test_no_days_no_baselines(lake: Lake) -> None:
    fitted = fit_baselines(lake, spec_of(), [])
    assert all(baseline.predict is None and baseline.facts["reason"] for baseline in fitted.values())


def test_a_feature_table_of_another_spec_is_refused(lake: Lake, spec: DatasetSpec) -> None:
    other = spec_of(dense=[{"name": "price", "log1p": True}])
    with pytest.raises(ValueError, match="shop/cleaned_features of 2026-01-01 was made under the fingerprint"):
        fit_baselines(lake, other, DAYS)


def test_the_design_holds_each_id_once_and_dense_features_standardised() -> None:
    spec = spec_of()
    table = shop_day(spec, DAYS[0], 300)
    design = Design.of(FeatureSchema.of(spec), table)
    matrix = design.matrix(table)
    ids = 3 + np.array([len(tags) for tags in table["tags"].to_pylist()])
    assert matrix.shape == (300, BUCKETS + 1)
    assert np.allclose(matrix[:, :BUCKETS].sum(axis=1).ravel(), ids)
    price = matrix[:, BUCKETS].toarray()
    assert abs(price.mean()) < 0.02 and abs(price.std() - 1) < 0.02
    again = design.matrix(table.slice(100, 50))
    assert (again != matrix[100:150]).nnz == 0


def test_equal_ids_of_two_features_fall_in_two_buckets() -> None:
    spec = spec_of()
    same = {"user": [5, 5], "item": [5, 6], "place": [5, 5], "tags": [[5], [5]]}
    table = shop_day(spec, DAYS[0], 2, **same)
    matrix = Design.of(FeatureSchema.of(spec), table).matrix(table)
    first, second = (set(matrix[row, :BUCKETS].indices.tolist()) for row in (0, 1))
    assert len(first) == 4 and len(first & second) == 3


@pytest.mark.slow
def test_on_criteo_it_is_as_good_as_a_converged_regression(
    real_logs: Path, catalog: dict[str, DatasetSpec], lake: Lake
) -> None:
    # The converged fit, of 0.759, had the counts and categories alone.
    spec = catalog["criteo"]
    spec = spec.model_copy(update={"sparse": tuple(feature for feature in spec.sparse if not feature.bucketise)})
    names = list(spec.source.columns)
    with gzip.open(real_logs / "criteo" / "train.txt.gz", "rt") as file:
        rows = list(islice(csv.reader(file, delimiter="\t"), 137_139))
    kinds = {"int": pa.int64(), "string": pa.string()}
    columns = [pa.array([cell or None for cell in column], pa.string()) for column in zip(*rows, strict=True)]
    log = pa.table({n: column.cast(kinds[spec.source.columns[n]]) for n, column in zip(names, columns, strict=True)})
    log = log.append_column("event_time", pa.array(np.arange(log.num_rows)))
    transform = compile_transforms(spec)
    bounds = [log.num_rows * i // 7 for i in range(8)]
    tables = []
    for day, low, high in zip(spec.days(), bounds[:-1], bounds[1:], strict=True):
        batches = log.slice(low, high - low).combine_chunks().to_batches()
        tables.append(pa.Table.from_batches([transform(batch) for batch in batches], transform.schema))
        put_day(lake, spec, day, tables[-1])
    fitted = fit_baselines(lake, spec, spec.days()[:6])["logistic_regression"]
    assert fitted.predict is not None
    found = auc(tables[6]["label"].to_numpy(), fitted.predict(tables[6]))
    assert found is not None and 0.757 < found < 0.765
