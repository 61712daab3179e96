from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ml.advisor.profiles.day import profile_day, profile_of
from ml.advisor.profiles.measure import Columns, measure_table
from ml.advisor.profiles.sketch import merge_days, merge_parts, summarise
from ml.compute.dask_cluster import Cluster, SchedulerUnreachable
from ml.features.read import feature_table
from ml.lake import Lake, MissingPartition
from ml.stages import FEATURE_PROFILES
from tests.helpers.quality_days import DAYS, make_spec, write_features

SPEC = make_spec()


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.at(tmp_path)


def test_merged_days_equal_the_profile_of_all_their_rows(lake: Lake) -> None:
    for day in DAYS[:3]:
        write_features(lake, SPEC, day)
        profile_day(SPEC, day, lake)
    merged = profile_of(SPEC, DAYS[:3], lake)
    rows = pa.concat_tables([feature_table(lake, SPEC, day) for day in DAYS[:3]])
    users = np.unique(rows["user"].to_numpy(), return_counts=True)[1]
    price = rows["price"].to_numpy().astype(np.float64)
    assert (merged.rows, merged.positives) == (rows.num_rows, int(rows["label"].to_numpy().sum()))
    assert merged.sparse["user"].ids == len(users)
    assert merged.sparse["user"].singles == np.count_nonzero(users == 1) / len(users)
    assert merged.sparse["user"].top_share == users.max() / rows.num_rows
    assert len(merged.sparse["user"].ids_by_day) == 3
    assert merged.sparse["user"].ids_by_day[-1] == len(users)
    assert merged.sparse["tags"].mean_length == pytest.approx(1.5, abs=0.05)
    assert merged.sparse["country"].missing == pytest.approx(0.05, abs=0.01)
    assert merged.dense["price"].missing == pytest.approx(0.05, abs=0.01)
    assert merged.dense["price"].mean == pytest.approx(price.mean())
    assert merged.dense["price"].std == pytest.approx(price.std())
    assert merged.dense["price"].quantiles[0.5] == np.quantile(price, 0.5, method="inverted_cdf")
    assert sum(rate is not None for rate in merged.label_rate_by_hour) == 24


def test_parts_of_a_day_merge_to_the_profile_of_the_day(lake: Lake) -> None:
    write_features(lake, SPEC, DAYS[0])
    columns, rows = Columns.of(SPEC, DAYS[0]), feature_table(lake, SPEC, DAYS[0])
    parts = [measure_table(columns, rows.slice(at, 700), at) for at in range(0, rows.num_rows, 700)]
    found, whole = summarise(merge_parts(parts), {}), summarise(merge_parts([measure_table(columns, rows)]), {})
    assert found.sparse == whole.sparse
    assert found.crosses == whole.crosses
    assert found.dense["price"].quantiles == whole.dense["price"].quantiles
    assert found.dense["price"].mean == pytest.approx(whole.dense["price"].mean)
    assert found.label_rate_by_hour == whole.label_rate_by_hour


def test_a_rerun_gives_the_same_bytes_and_drift_is_against_the_day_before(lake: Lake) -> None:
    contents = []
    for day in DAYS[:2]:
        write_features(lake, SPEC, day)
    for _ in range(2):
        profile_day(SPEC, DAYS[0], lake)
        profile_day(SPEC, DAYS[1], lake)
        folder = lake.partition(FEATURE_PROFILES, SPEC.name, DAYS[1])
        contents.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert contents[0] == contents[1]
    assert len(contents[0]) == 5
    first, second = (profile_of(SPEC, [day], lake) for day in DAYS[:2])
    assert set(first.drift.values()) == {None}
    assert second.drift["country"] is not None
    assert 0 <= second.drift["country"] < 0.05
    assert 0 <= (second.drift["price"] or 1) < 0.05
    assert lake.manifest(FEATURE_PROFILES, SPEC.name, DAYS[1])["rows"] == second.rows


def test_drift_of_a_changed_day_is_large(lake: Lake) -> None:
    def change(columns: dict) -> None:
        columns["price"] = pa.array(np.asarray(columns["price"]) + np.float32(2))

    write_features(lake, SPEC, DAYS[0])
    write_features(lake, SPEC, DAYS[1], change)
    profile_day(SPEC, DAYS[0], lake)
    assert (profile_day(SPEC, DAYS[1], lake).profile.drift["price"] or 0) > 0.25


@pytest.mark.parametrize("rows", [0, 1])
def test_days_of_no_rows_and_of_one_row(lake: Lake, rows: int) -> None:
    write_features(lake, SPEC, DAYS[0])
    write_features(lake, SPEC, DAYS[1], rows=rows)
    whole = profile_day(SPEC, DAYS[0], lake).profile
    found = profile_day(SPEC, DAYS[1], lake).profile
    assert found.rows == rows
    assert found.sparse["user"].ids == rows
    assert found.dense["price"].distinct == rows
    assert (found.label_rate is None) == (rows == 0)
    assert profile_of(SPEC, DAYS[:2], lake).rows == whole.rows + rows


def test_a_feature_without_any_value_is_missing_in_all_rows(lake: Lake) -> None:
    def change(columns: dict) -> None:
        rows = len(columns["country"])
        columns["country"], columns["price"] = pa.array(np.zeros(rows, np.int64)), pa.array(np.zeros(rows, np.float32))

    write_features(lake, SPEC, DAYS[0], change)
    found = profile_day(SPEC, DAYS[0], lake).profile
    assert (found.sparse["country"].missing, found.sparse["country"].ids, found.sparse["country"].zipf) == (1.0, 0, None)
    assert (found.dense["price"].missing, found.dense["price"].std) == (1.0, 0.0)


def test_a_scheduler_that_does_not_answer_is_refused_by_name(lake: Lake) -> None:
    write_features(lake, SPEC, DAYS[0])
    with pytest.raises(SchedulerUnreachable, match=r"EVERGREEN_DASK: no Dask scheduler answers at 'tcp://127.0.0.1:1'"):
        profile_day(SPEC, DAYS[0], lake, Cluster("tcp://127.0.0.1:1"))


def test_days_that_are_missing_or_out_of_order_are_refused(lake: Lake) -> None:
    write_features(lake, SPEC, DAYS[0])
    with pytest.raises(MissingPartition, match="feature_profiles"):
        profile_of(SPEC, DAYS[:1], lake)
    with pytest.raises(ValueError, match="at least one"):
        profile_of(SPEC, [], lake)
    sketch = measure_table(Columns.of(SPEC, DAYS[0]), feature_table(lake, SPEC, DAYS[0]))
    with pytest.raises(ValueError, match="in the order of their days"):
        merge_days([sketch, sketch])
