import numpy as np
import pytest

from ml.advisor.profiles.frequency import frequencies, zipf_exponent
from ml.advisor.profiles.id_counts import IdCounts, count_ids, merge_counts


def zipf_ids(exponent: float, ids: int, occurrences: int, seed: int = 0) -> np.ndarray:
    weights = np.arange(1, ids + 1) ** -exponent
    return np.random.default_rng(seed).choice(ids, occurrences, p=weights / weights.sum()) + 2


@pytest.mark.parametrize("exponent", [0.6, 1.0, 1.4])
def test_the_exponent_of_a_zipf_distribution_is_found(exponent: float) -> None:
    assert zipf_exponent(count_ids(zipf_ids(exponent, 20_000, 400_000))) == pytest.approx(exponent, abs=0.05)


def test_the_exponent_of_exact_counts_is_found_to_a_percent() -> None:
    counts = np.round(1e9 * np.arange(1, 5_001) ** -1.2).astype(np.int64)
    assert zipf_exponent(IdCounts(np.arange(5_000), counts)) == pytest.approx(1.2, rel=0.01)


def test_the_exponent_of_a_sample_of_ids_is_found() -> None:
    counts = merge_counts([count_ids(zipf_ids(0.8, 20_000, 1_000_000))], 5_000)
    assert counts.level > 0
    assert zipf_exponent(counts) == pytest.approx(0.8, abs=0.08)


def test_the_exponent_of_equal_frequencies_is_near_zero() -> None:
    assert zipf_exponent(count_ids(np.random.default_rng(0).integers(2, 1_002, 200_000))) == pytest.approx(0, abs=0.05)
    assert zipf_exponent(count_ids(np.arange(100))) == 0


def test_fewer_than_ten_ids_have_no_exponent() -> None:
    assert zipf_exponent(count_ids(np.repeat(np.arange(9), 50))) is None
    assert zipf_exponent(count_ids(np.arange(10))) is not None


def test_frequencies_count_ids_by_power_of_two() -> None:
    counts = np.array([1, 1, 2, 3, 4, 7, 8, 1023, 1024])
    assert frequencies(IdCounts(np.arange(9), counts)) == (2, 2, 2, 1, 0, 0, 0, 0, 0, 1, 1)
    assert frequencies(IdCounts(np.arange(9), counts, level=3))[:2] == (16, 16)
    assert frequencies(IdCounts()) == ()
