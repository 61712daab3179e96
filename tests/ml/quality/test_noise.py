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
from ml.quality.noise import BLOCKS_BELOW, Share
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
