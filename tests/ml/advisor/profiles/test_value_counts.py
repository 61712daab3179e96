import numpy as np
import pytest

from ml.advisor.profiles.profile import QUANTILES
from ml.advisor.profiles.value_counts import count_floats, merge_values

RNG = np.random.default_rng(5)
VALUES = np.concatenate([RNG.normal(0, 100, 6_000), np.zeros(500), [-0.0, 3e38, -3e38]]).astype(np.float32)


@pytest.mark.parametrize("limit", [10_000, 500])
def test_merged_counts_equal_the_counts_of_all_values(limit: int) -> None:
    whole = merge_values([count_floats(VALUES)], limit, 300)
    parts = [count_floats(part) for part in np.array_split(RNG.permutation(VALUES), 7)]
    nested = merge_values([merge_values(parts[:3], limit, 300), merge_values(parts[3:5], limit, 300), *parts[5:]], limit, 300)
    for merged in (merge_values(parts, limit, 300), nested):
        for name in ("keys", "counts", "sample"):
            np.testing.assert_array_equal(getattr(merged, name), getattr(whole, name))
        assert (merged.level, merged.sample_level) == (whole.level, whole.sample_level)


def test_quantiles_below_the_limit_are_exact() -> None:
    counts = merge_values([count_floats(part) for part in np.array_split(VALUES, 3)])
    np.testing.assert_array_equal(counts.quantiles(QUANTILES), np.quantile(VALUES, QUANTILES, method="inverted_cdf"))
    np.testing.assert_array_equal(counts.values, np.unique(VALUES))
    assert (counts.error, counts.distinct, counts.distinct_error) == (0.0, len(np.unique(VALUES)), 0.0)


def test_beyond_the_limit_quantiles_and_the_number_of_values_are_within_their_errors() -> None:
    counts = merge_values([count_floats(VALUES)], 500, 300)
    assert len(counts.keys) <= 500
    assert counts.error > 0
    exact = np.quantile(VALUES, QUANTILES, method="inverted_cdf")
    np.testing.assert_allclose(counts.quantiles(QUANTILES), exact, rtol=counts.error)
    assert counts.distinct_error > 0
    assert counts.distinct == pytest.approx(len(np.unique(VALUES)), rel=4 * counts.distinct_error)


def test_the_documented_limit_bounds_the_error() -> None:
    spread = np.exp(RNG.uniform(-80, 80, 300_000)).astype(np.float32) * RNG.choice([-1, 1], 300_000).astype(np.float32)
    assert 0 < merge_values([count_floats(spread)]).error <= 2**-8


def test_one_value() -> None:
    counts = count_floats(np.array([-0.0], np.float32))
    assert counts.quantiles(QUANTILES).tolist() == [0.0] * len(QUANTILES)
    assert count_floats(np.zeros(0, np.float32)).distinct == 0
