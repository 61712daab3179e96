import numpy as np
import pytest

from ml.advisor.profiles.crosses import best_crosses, distinct_of
from ml.advisor.profiles.row_sample import RowSample

ROWS = 8_000


def sample_of(labels: np.ndarray, **ids: np.ndarray) -> RowSample:
    columns = {name: values.astype(np.uint32) for name, values in ids.items()}
    return RowSample(np.arange(len(labels), dtype=np.uint64), labels.astype(np.bool_), {}, columns)


def chance(logits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.random(len(logits)) < 1 / (1 + np.exp(-logits))


def test_an_exclusive_or_gains_one_bit() -> None:
    rng = np.random.default_rng(0)
    a, b, c = (rng.integers(0, 2, ROWS) for _ in range(3))
    (cross,) = best_crosses(sample_of(a ^ b, a=a, b=b, c=c), ROWS)
    assert (cross.features, cross.pairs) == (("a", "b"), 4)
    assert cross.gain == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("seed", range(5))
def test_noise_gains_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ids = {f"x{i}": rng.zipf(1.2, ROWS) % 5_000 for i in range(15)}
    assert best_crosses(sample_of(rng.random(ROWS) < 0.2, **ids), ROWS) == ()


@pytest.mark.parametrize("seed", range(3))
def test_additive_effects_and_copies_of_a_feature_gain_next_to_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 30, ROWS), rng.integers(0, 30, ROWS)
    labels = chance(-1 + 0.3 * (a % 5 - 2) + 0.2 * (b % 7 - 3), rng)
    assert all(cross.gain < 1e-3 for cross in best_crosses(sample_of(labels, a=a, b=b, copy=a), ROWS))


def test_a_cross_that_is_already_a_feature_gains_nothing() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 12, ROWS), rng.integers(0, 12, ROWS)
    labels = chance(np.where((a + b) % 2, 0.5, -1.5), rng)
    assert best_crosses(sample_of(labels, a=a, b=b), ROWS)[0].features == ("a", "b")
    assert ("a", "b") not in [c.features for c in best_crosses(sample_of(labels, a=a, b=b, ab=12 * a + b), ROWS)]


def test_a_weak_cross_is_found_among_many_features() -> None:
    rng = np.random.default_rng(1)
    ids = {f"x{i}": rng.integers(0, 10, ROWS) for i in range(12)}
    labels = chance(np.where((ids["x3"] < 5) ^ (ids["x8"] < 5), -0.6, -1.8), rng)
    assert [cross.features for cross in best_crosses(sample_of(labels, **ids), ROWS)] == [("x3", "x8")]


def test_days_without_pairs_or_with_one_label_have_no_crosses() -> None:
    ids = np.arange(100) % 3
    half = np.arange(100) % 2
    assert best_crosses(sample_of(half, a=ids), 100) == ()
    assert best_crosses(sample_of(np.ones(100), a=ids, b=ids), 100) == ()
    assert best_crosses(RowSample(), 0) == ()
    assert best_crosses(sample_of(np.array([1]), a=ids[:1], b=ids[:1]), 1) == ()
    assert best_crosses(sample_of(np.array([1, 0]), a=ids[:2], b=ids[:2]), 2) == ()


def test_the_number_of_pairs_is_exact_for_all_rows_and_an_estimate_for_a_sample() -> None:
    values = np.random.default_rng(0).integers(0, 1_000, 20_000).astype(np.uint64)
    assert distinct_of(values, len(values)) == len(np.unique(values))
    once = np.arange(100, dtype=np.uint64)
    assert distinct_of(once, 400) == 200
