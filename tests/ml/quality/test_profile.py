"""Profiles: statistics equal those of pandas, a stored profile is used until its data changes, and noise is not drift."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.features.hashing import hash_values
from ml.lake import Lake
from ml.quality.contract import contract
from ml.quality.drift import NOISE, population_stability_index
from ml.quality.histogram import BUCKETS, Histogram, histogram_of
from ml.quality.profile import Profile
from ml.quality.profiling import FILE, profile_day
from ml.quality.validate import validate
from ml.schema import MISSING_ID, OOV_ID
from tests.helpers.quality_days import DAYS, ROWS, make_spec, raw_columns, write_days, write_features, write_mds, write_raw

SPEC = make_spec()
DAY = DAYS[0]
EVEN = Histogram(0, 0, (1000,) * BUCKETS)
ids = st.lists(st.integers(-(2**63), 2**63 - 1) | st.sampled_from([MISSING_ID, OOV_ID]), max_size=50)


@pytest.mark.slow
def test_statistics_of_raw_logs_equal_those_of_pandas(lake: Lake) -> None:
    write_raw(lake, SPEC, DAY)
    profile = profile_day(SPEC, "raw_logs", DAY, lake)
    table = pq.read_table(str(lake.partition("raw_logs", SPEC.name, DAY) / "rows")).to_pandas()
    assert profile.rows == len(table) == ROWS
    assert profile.positives == (table.clicked == 1).sum() and profile.label_rate == pytest.approx(table.clicked.mean())
    for name, column in profile.columns.items():
        assert column.nulls == table[name].isna().sum(), name
        if table[name].dtype != object:
            assert (column.min, column.max) == (table[name].min(), table[name].max()), name
    country = profile.histograms["country"]
    assert country.missing == table.country.isna().sum() and country.known == table.country.notna().sum()
    buckets = {name: int(hash_values("country", raw_columns(SPEC, DAY)["country"].dictionary_encode())[i]) % BUCKETS
               for i, name in enumerate(raw_columns(SPEC, DAY)["country"].to_pylist())}  # fmt: skip
    for name, count in table.country.value_counts().items():
        assert country.buckets[buckets[str(name)]] >= count


def test_duplicates_are_those_of_pandas_and_missing_keys_repeat_nothing(lake: Lake) -> None:
    spec = make_spec(expectations={"unique": ["user", "country"]})
    write_raw(lake, spec, DAY)
    table = pq.read_table(str(lake.partition("raw_logs", spec.name, DAY) / "rows")).to_pandas().dropna(subset=["country"])
    assert profile_day(spec, "raw_logs", DAY, lake).duplicates == table.duplicated(["user", "country"]).sum() > 0


def test_statistics_of_mds_data_equal_those_of_the_features(lake: Lake) -> None:
    write_days(lake, SPEC, [DAY], write_features, write_mds)
    features, mds = (profile_day(SPEC, stage, DAY, lake) for stage in ("cleaned_features", "mds_datasets"))
    assert mds.histograms == features.histograms and set(mds.histograms) == {s.name for s in SPEC.sparse}
    assert (mds.rows, mds.positives, sum(mds.splits.values())) == (features.rows, features.positives, ROWS)
    for name in ("price", "event_time", "sample_rate"):
        assert (mds.columns[name].min, mds.columns[name].max) == (features.columns[name].min, features.columns[name].max)


def test_a_profile_survives_its_json(lake: Lake) -> None:
    write_raw(lake, SPEC, DAY)
    profile = profile_day(SPEC, "raw_logs", DAY, lake)
    assert Profile.from_json(profile.to_json()) == profile
    assert profile_day(SPEC, "raw_logs", DAY, lake) == profile


def test_a_kept_profile_is_used_until_its_data_changes(lake: Lake) -> None:
    write_raw(lake, SPEC, DAY)
    first = profile_day(SPEC, "raw_logs", DAY, lake)
    kept = lake.partition("profiles/raw_logs", SPEC.name, DAY) / FILE
    inode = kept.stat().st_ino
    profile_day(SPEC, "raw_logs", DAY, lake)
    assert kept.stat().st_ino == inode
    # Another file of the same size, with the same manifest.
    write_raw(lake, SPEC, DAY, lambda columns: columns.update(user=columns["user"].take(np.arange(ROWS)[::-1].copy())))
    again = profile_day(SPEC, "raw_logs", DAY, lake)
    assert kept.stat().st_ino != inode and again.rows == first.rows
    asked = make_spec(expectations={"unique": ["user"]})
    assert profile_day(asked, "raw_logs", DAY, lake).duplicates > again.duplicates


@given(ids)
def test_a_histogram_counts_each_id_once(values: list[int]) -> None:
    found = histogram_of(np.array(values, np.int64))
    assert sum(found.counts) == len(values)
    assert (found.missing, found.out_of_vocabulary) == (values.count(MISSING_ID), values.count(OOV_ID))
    assert all(count == sum(v % BUCKETS == b and v not in (0, 1) for v in values) for b, count in enumerate(found.buckets))


@given(ids, ids)
def test_histograms_add_up(a: list[int], b: list[int]) -> None:
    parts = histogram_of(np.array(a, np.int64)) + histogram_of(np.array(b, np.int64))
    assert parts == histogram_of(np.array(a + b, np.int64))


def test_the_index_by_hand() -> None:
    before = Histogram(0, 0, (60_000, 40_000) + (0,) * 254)
    today = Histogram(0, 0, (40_000, 60_000) + (0,) * 254)
    found = population_stability_index(today, [before])
    assert found == pytest.approx(2 * 0.2 * math.log(0.6 / 0.4), rel=0.02)


def test_no_drift_and_full_drift() -> None:
    assert population_stability_index(EVEN, [EVEN, EVEN]) == pytest.approx(0, abs=1e-4)
    assert population_stability_index(Histogram(256_000, 0, (0,) * BUCKETS), [EVEN]) > 5  # type: ignore[operator]


@pytest.mark.parametrize("days", [[20_000] + [20] * 6, [20_000] + [100] * 6, [20_000] * 5 + [1, 1], [4000, 8, 8, 8, 8, 8]])
def test_small_days_among_large_ones_are_no_drift(days: list[int]) -> None:
    rng = np.random.default_rng(0)
    today, *before = (histogram_of(rng.zipf(1.3, rows).astype(np.int64) * 7919) for rows in (20_000, *days))
    assert 0 <= population_stability_index(today, before) < 5 * NOISE  # type: ignore[operator]


def test_nothing_to_compare_with_is_none() -> None:
    nothing = Histogram(0, 0, (0,) * BUCKETS)
    assert population_stability_index(EVEN, []) is None
    assert population_stability_index(EVEN, [nothing]) is None
    assert population_stability_index(nothing, [EVEN]) is None
    assert population_stability_index(Histogram(0, 0, (3, 2) + (0,) * 254), [EVEN]) is None


def test_users_and_items_may_come_and_go(lake: Lake) -> None:
    write_raw(lake, SPEC, DAY)
    write_raw(lake, SPEC, DAYS[1], lambda columns: columns.update(user=columns["item"], item=columns["user"]))
    drift = next(v for v in validate(SPEC, "raw_logs", DAYS[1], lake).verdicts if v.name == "drift")
    assert drift.passed and set(drift.observed) == {"country", "tags"}


def test_a_vocabulary_compares_only_with_days_that_knew_a_value() -> None:
    unknown = Histogram(0, 256_000, (0,) * BUCKETS)
    assert population_stability_index(EVEN, [unknown], vocabulary=True) is None
    assert population_stability_index(EVEN, [unknown, EVEN], vocabulary=True) == 0.0
    assert population_stability_index(unknown, [EVEN], vocabulary=True) > 5  # type: ignore[operator]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(10, 100_000), st.integers(1, 7))
def test_two_samples_of_one_distribution_do_not_drift(seed: int, rows: int, days: int) -> None:
    rng = np.random.default_rng(seed)
    today, *before = (histogram_of(rng.zipf(1.3, rows).astype(np.int64) * 7919) for _ in range(days + 1))
    found = population_stability_index(today, before)
    assert found is None or 0 <= found < 5 * NOISE


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1_000, 100_000))
def test_a_third_of_the_rows_moved_to_one_value_does(seed: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    before, now = (rng.zipf(1.3, rows).astype(np.int64) * 7919 for _ in range(2))
    now[: rows // 3] = MISSING_ID
    assert population_stability_index(histogram_of(now), [histogram_of(before)]) > 0.25  # type: ignore[operator]


def test_contract_keeps_the_number_of_checks_readable(catalog: dict) -> None:
    for spec in catalog.values():
        for stage in ("raw_logs", "cleaned_features", "mds_datasets"):
            names = [e.name for e in contract(spec, stage)]
            assert len(set(names)) == len(names) <= 12
            assert all(name.isidentifier() and e.why for name, e in zip(names, contract(spec, stage), strict=True))


def test_columns_that_share_a_band_share_a_check() -> None:
    columns = {
        "price": {"null_rate": {"max": 0.1}},
        "country": {"null_rate": {"max": 0.1}},
        "tags": {"null_rate": {"max": 0.2}},
    }
    found = {e.name: e.columns for e in contract(make_spec(expectations={"columns": columns}), "raw_logs") if e.columns}
    assert found == {"required": ("event_time",), "null_rate_price": ("price", "country"), "null_rate_tags": ("tags",)}


def test_contract_of_another_stage_is_refused() -> None:
    with pytest.raises(ValueError, match="raw_logs"):
        contract(SPEC, "tuned_models")


@pytest.mark.slow
def test_several_processes_can_measure_the_same_day(lake: Lake) -> None:
    write_raw(lake, SPEC, DAY)
    code = (
        "import sys; from tests.helpers.quality_days import make_spec; from ml.lake import Lake\n"
        "from ml.quality.profiling import profile_day\n"
        "lake = Lake.at(sys.argv[1])\n"
        "for n in range(20):\n"  # with other expectations each time, so that the day is measured again
        "    spec = make_spec(expectations={'unique': [['user', 'item', 'time'][: n % 3 + 1], []][n % 2]})\n"
        "    print(profile_day(spec, 'raw_logs', sys.argv[2], lake).rows)"
    )
    command = [sys.executable, "-c", code, str(lake.root), DAY]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = [process.communicate()[0].split() for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert outputs == [[str(ROWS)] * 20] * 3


def test_profiles_are_stored_next_to_the_data(lake: Lake, tmp_path: Path) -> None:
    write_raw(lake, SPEC, DAY)
    profile_day(SPEC, "raw_logs", DAY, lake)
    assert (tmp_path / "lake" / "profiles" / "raw_logs" / SPEC.name / DAY / FILE).exists()
    assert lake.days("raw_logs", SPEC.name) == [DAY]
