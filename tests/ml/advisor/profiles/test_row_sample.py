import numpy as np

from ml.advisor.profiles.row_sample import RowSample, chosen_rows, merge_samples


def sample_of(day: str, first: int, count: int, limit: int) -> RowSample:
    rows, priorities = chosen_rows(day, first, count, limit)
    return RowSample(priorities, np.zeros(len(rows), np.bool_), {"position": (rows + first).astype(np.float32)})


def test_a_merged_sample_is_the_sample_of_all_rows() -> None:
    whole = sample_of("2026-01-01", 0, 1_000, 100)
    parts = [sample_of("2026-01-01", first, 250, 100) for first in (0, 250, 500, 750)]
    merged = merge_samples([merge_samples(parts[:2], 100), *parts[2:]], 100)
    np.testing.assert_array_equal(merged.priorities, whole.priorities)
    np.testing.assert_array_equal(merged.dense["position"], whole.dense["position"])


def test_a_sample_is_uniform_and_differs_between_days() -> None:
    positions = [set(sample_of(day, 0, 10_000, 1_000).dense["position"].tolist()) for day in ("2026-01-01", "2026-01-02")]
    assert [len(p) for p in positions] == [1_000, 1_000]
    assert 4_700 < np.mean(list(positions[0])) < 5_300
    assert len(positions[0] & positions[1]) < 200


def test_samples_without_rows() -> None:
    assert len(merge_samples([RowSample(), sample_of("2026-01-01", 0, 5, 100), RowSample()], 100).labels) == 5
    assert len(merge_samples([RowSample(), RowSample()]).labels) == 0
