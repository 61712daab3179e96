"""Small days warn, large deviations block, and a band of exactly zero allows no row."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from ml.lake import Lake
from ml.quality.drift import population_stability_index
from ml.quality.histogram import histogram_of
from ml.quality.noise import BLOCKS_BELOW, Drift, Ratio, Share
from ml.quality.validate import Verdict, validate
from tests.helpers.quality_days import DAYS, make_spec, write_raw

DAY = DAYS[0]


@given(st.integers(0, 400), st.integers(1, 400), st.floats(0, 1))
def test_noise_is_a_one_sided_binomial_test(count: int, of: int, bound: float) -> None:
    found = Share(min(count, of), of)
    if found > bound:
        assert found.is_noise(high=bound) == (binomtest(found.count, of, bound, "greater").pvalue >= BLOCKS_BELOW)
    if found < bound:
        assert found.is_noise(low=bound) == (binomtest(found.count, of, bound, "less").pvalue >= BLOCKS_BELOW)
    assert found.is_noise(0.0, 1.0), "inside the band"


def test_a_share_is_a_number_that_keeps_its_counts() -> None:
    found = pickle.loads(pickle.dumps(Share(1, 4)))
    assert (found, found.count, found.of) == (0.25, 1, 4) and Share(0, 0) == 0.0


def verdict_of(lake: Lake, name: str, rows: int, expectations: dict[str, Any] | None = None, **changed: Any) -> Verdict:
    spec = make_spec(expectations=expectations or {})
    write_raw(lake, spec, DAY, changed.get("change"), rows, changed.get("manifest", {"quarantined": 0}))
    return next(v for v in validate(spec, "raw_logs", DAY, lake).verdicts if v.name == name)


@pytest.mark.parametrize(
    ("rows", "bad", "passed", "severity"),
    [
        (50, 1, False, "warning"),  # 2 %, by chance in 40 % of such days
        (46, 5, False, "error"),
        (1, 1, False, "warning"),
        (990, 10, True, "error"),
        (9_800, 200, False, "error"),
        (9_890, 110, False, "warning"),
    ],
)
def test_malformed_lines(tmp_path: Path, rows: int, bad: int, passed: bool, severity: str) -> None:
    found = verdict_of(Lake.at(tmp_path), "quarantine_rate", rows, manifest={"quarantined": bad})
    assert (found.passed, found.severity) == (passed, severity)
    assert found.observed == {"day": f"{bad / (rows + bad):.6g} ({bad} of {rows + bad})"}
    assert ("by chance" in found.why) == (severity == "warning")


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize(
    ("rows", "least", "severity"),
    [(10, 0.0001, "warning"), (100, 0.0001, "warning"), (100, 0.1, "error"), (20, 0.1, "warning")],
)
def test_days_of_one_class(tmp_path: Path, label: int, rows: int, least: float, severity: str) -> None:
    """Without a click in 100 rows a rate of 0.01 % is likely, and a rate of 10 % is not."""

    def one_class(columns: dict[str, Any]) -> None:
        columns["clicked"] = pa.array(np.full(rows, label))

    found = verdict_of(
        Lake.at(tmp_path), "label_rate", rows, {"label_rate": {"min": least, "max": 1 - least}}, change=one_class
    )
    assert (found.passed, found.severity) == (False, severity)


@pytest.mark.parametrize(("missing", "severity"), [(3, "warning"), (12, "error")])
def test_missing_values_of_a_column(tmp_path: Path, missing: int, severity: str) -> None:
    def drop(columns: dict[str, Any]) -> None:
        columns["price"] = pa.array([None] * missing + [1.0] * (20 - missing), pa.float64())

    expectations = {"columns": {"price": {"null_rate": {"max": 0.1}}}}
    found = verdict_of(Lake.at(tmp_path), "null_rate_price", 20, expectations, change=drop)
    assert (found.passed, found.severity) == (False, severity)


def test_a_row_that_must_not_be_there_blocks_the_smallest_day(tmp_path: Path) -> None:
    def spoil(columns: dict[str, Any]) -> None:
        columns["clicked"] = pa.array([2, 0])

    found = verdict_of(Lake.at(tmp_path), "label_values", 2, change=spoil)
    assert (found.passed, found.severity) == (False, "error")


def test_a_warning_stays_a_warning(tmp_path: Path) -> None:
    band = {"quarantine_rate": {"max": 0.01, "severity": "warning"}}
    found = verdict_of(Lake.at(tmp_path), "quarantine_rate", 100, band, manifest={"quarantined": 900})
    assert (found.passed, found.severity) == (False, "warning") and "by chance" not in found.why


@pytest.mark.parametrize("usual", [3, 20, 200, 2_000])
def test_random_days_are_never_blocked_by_their_number_of_rows(usual: int) -> None:
    """Poisson days, at the bounds of the band and far inside it, around a usual day that is itself a Poisson day."""
    rng = np.random.default_rng(usual)
    for bound, band in ((1.0, (1.0, 1.0)), (0.2, (0.2, 5.0)), (5.0, (0.2, 5.0))):
        counts, before = rng.poisson(usual * bound, 2_000), rng.poisson(usual, 2_000)
        blocked = [not Ratio(int(n), float(m)).is_noise(*band) for n, m in zip(counts, before, strict=True)]
        assert np.mean(blocked) <= 4 * BLOCKS_BELOW
    assert Ratio(0, 0.0).is_noise(0.2, 5.0)


@pytest.mark.parametrize(("count", "usual"), [(0, 100), (2, 100), (400, 4_000), (9_000, 1_000), (90, 5)])
def test_a_number_of_rows_far_outside_its_band_is_no_noise(count: int, usual: int) -> None:
    assert not Ratio(count, float(usual)).is_noise(0.2, 5.0)


@pytest.mark.parametrize("before", [2, 10, 2_000])
@pytest.mark.parametrize("rows", [0, 1, 2, 100, 400])
def test_the_volume_of_a_day(before: int, rows: int, tmp_path: Path) -> None:
    lake, spec = Lake.at(tmp_path), make_spec(expectations={"volume": {"min": 0.2, "max": 5.0}})
    write_raw(lake, spec, DAYS[0], None, before)
    write_raw(lake, spec, DAYS[1], None, rows)
    [found] = [v for v in validate(spec, "raw_logs", DAYS[1], lake).verdicts if v.name == "volume"]
    assert found.passed == (0.2 <= rows / before <= 5)
    blocks = {(2, 100), (2, 400), (10, 400), (2_000, 0), (2_000, 1), (2_000, 2), (2_000, 100)}
    assert (not found.passed and found.severity == "error") == ((before, rows) in blocks)
    assert found.observed == {"day": f"{rows / before:.6g} ({rows} rows, usually {before})"}


@pytest.mark.parametrize("values", [2, 5, 60])
@pytest.mark.parametrize("rows", [5, 200, 1_000, 5_000])
def test_the_drift_of_a_random_day_is_noise(rows: int, values: int) -> None:
    rng = np.random.default_rng(rows * values)
    shares = rng.dirichlet(np.ones(values))
    for _ in range(100):
        today, before = (histogram_of(2 + rng.choice(values, n, p=shares)) for n in (rows, 3 * rows))
        found = population_stability_index(today, [before])
        assert found is None or found.is_noise(high=0.0)


def test_a_drift_far_above_its_band_is_no_noise() -> None:
    before = histogram_of(2 + np.arange(4_000) % 4)
    today = histogram_of(np.full(400, 2))
    found = population_stability_index(today, [before])
    assert isinstance(found, Drift) and found > 1 and not found.is_noise(high=0.25)
    assert pickle.loads(pickle.dumps(found)).scale == found.scale
