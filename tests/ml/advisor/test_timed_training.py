from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from ml.advisor import timed_training
from ml.advisor.timed_training import BATCHES, LENGTH, Shape, Training, typical_seconds

SKEWED = Shape("dlrm", 3, 8, 1000, 5_000)
SHAPES = [SKEWED, replace(SKEWED, even=True), replace(SKEWED, ids=50), replace(SKEWED, ids=50, even=True)]


@pytest.mark.parametrize("shape", [*SHAPES, replace(SKEWED, fresh=True)])
def test_ids_repeat_as_often_as_the_workload_says(shape: Shape) -> None:
    ids = shape.data(0).single[: shape.rows]  # of one batch
    distinct = np.mean([len(np.unique(column)) for column in ids.T])
    assert shape.workload.updated_rows(shape.recipe, "s0") == pytest.approx(distinct, rel=0.15)
    assert ids.min() >= 2 and (shape.fresh or ids.max() < shape.ids + 2)


def test_fresh_ids_are_new_in_every_batch() -> None:
    fresh = replace(SKEWED, fresh=True)
    batches = np.concatenate([fresh.data(part).single for part in range(3)]).reshape(3 * BATCHES, -1)
    assert all(low.max() < high.min() for low, high in pairwise(batches))
    assert fresh.units["new_rows"] > 0 == SKEWED.units["new_rows"]


def test_data_have_the_features_of_the_schema() -> None:
    shape = Shape("dlrm", 3, 5, 512, 2_000, lists=2)
    rows = shape.data(0)
    assert (rows.dense.shape[1], rows.single.shape[1], rows.multi_lengths.shape[1]) == (3, 5, 2)
    assert rows.multi_lengths.mean() == pytest.approx(LENGTH, rel=0.05) and rows.multi_lengths.min() == 1
    assert len(rows.multi_values) == rows.multi_lengths.sum() and len(rows) == BATCHES * 512
    assert shape.units["list_ids"] == 2 * LENGTH * 512
    assert (shape.data(1).single != rows.single).any() and (shape.data(0).single == rows.single).all()


def test_a_larger_training_takes_more_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timed_training, "SECONDS", 1e-9)  # a part of the data for each repetition
    small, large = Shape("dlrm", 3, 4, 32, 100), Shape("dlrm", 3, 4, 8192, 100)
    trainings = [Training(small), Training(large)]
    found = typical_seconds(trainings, 3)
    assert trainings[0].first_seconds > 0 and 0 < found[0] < found[1], "256 times as many rows"
