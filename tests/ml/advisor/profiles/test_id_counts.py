import numpy as np
import pytest

from ml.advisor.profiles.id_counts import IdCounts, count_ids, merge_counts

RNG = np.random.default_rng(3)
IDS = np.concatenate([RNG.integers(-(2**63), 2**63, 5_000), RNG.integers(2, 100, 5_000), np.full(3_000, 77)])


def parts_of(ids: np.ndarray, count: int) -> list[IdCounts]:
    return [count_ids(part) for part in np.array_split(RNG.permutation(ids), count)]


@pytest.mark.parametrize("limit", [10_000, 1_000, 50])
def test_merged_counts_equal_the_counts_of_all_ids(limit: int) -> None:
    whole = merge_counts([count_ids(IDS)], limit)
    parts = parts_of(IDS, 9)
    nested = merge_counts([merge_counts(parts[:2], limit), merge_counts(parts[2:5], limit), *parts[5:]], limit)
    for merged in (merge_counts(parts, limit), nested):
        np.testing.assert_array_equal(merged.ids, whole.ids)
        np.testing.assert_array_equal(merged.counts, whole.counts)
        assert merged.level == whole.level


def test_counts_below_the_limit_are_exact() -> None:
    counts = merge_counts(parts_of(IDS, 4))
    ids, occurrences = np.unique(IDS, return_counts=True)
    np.testing.assert_array_equal(counts.ids, ids)
    np.testing.assert_array_equal(counts.counts, occurrences)
    assert (counts.level, counts.error, counts.distinct) == (0, 0.0, len(ids))


def test_beyond_the_limit_counts_of_sampled_ids_are_exact_and_the_number_of_ids_is_within_its_error() -> None:
    limit = 1_000
    counts = merge_counts(parts_of(IDS, 4), limit)
    ids, occurrences = np.unique(IDS, return_counts=True)
    assert limit / 2.5 < len(counts.ids) <= limit
    np.testing.assert_array_equal(counts.counts, occurrences[np.searchsorted(ids, counts.ids)])
    assert 0 < counts.error < 1 / np.sqrt(len(counts.ids))
    assert counts.distinct == pytest.approx(len(ids), rel=4 * counts.error)


def test_the_stated_error_is_the_spread_over_feature_seeds() -> None:
    errors = []
    for seed in range(40):
        ids = np.random.default_rng(seed).integers(-(2**63), 2**63, 4_000)
        counts = merge_counts([count_ids(ids)], 500)
        errors.append((counts.distinct / 4_000 - 1) / counts.error)
    assert 0.7 < np.std(errors) < 1.35


def test_the_most_frequent_id_beyond_the_limit_is_within_its_error() -> None:
    counts = merge_counts([merge_counts([part], 50, 20) for part in parts_of(IDS, 6)], 50, 20)
    true = int(np.count_nonzero(IDS == 77))
    best = int(counts.heavy_counts.max())
    assert counts.heavy_ids[counts.heavy_counts.argmax()] == 77
    assert best <= true <= best + counts.heavy_error
    assert counts.heavy_error <= len(IDS) / 20


def test_no_ids() -> None:
    nothing = count_ids(np.zeros(0, np.int64))
    assert merge_counts([nothing, nothing]).distinct == 0
    assert merge_counts([nothing, count_ids(IDS)]).distinct == len(np.unique(IDS))
