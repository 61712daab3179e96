"""Which parts of a batch are timed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ml.datasets.batch import Batch
from ml.export.latency import ROWS, latency_of
from ml.schema import FeatureSchema
from tests.helpers.training_days import make_batches

SCHEMA = FeatureSchema(("x",), ("a",), (), "fingerprint")


class Noting:
    """A predictor that notes its batches."""

    labels = ("label",)

    def __init__(self) -> None:
        self.batches: list[Batch] = []

    def predict(self, batch: Batch, sampled: bool = False) -> NDArray[np.float32]:
        self.batches.append(batch)
        return np.zeros(len(batch), np.float32)

    def predict_labels(self, batch: Batch, sampled: bool = False) -> NDArray[np.float32]:
        return self.predict(batch)[:, None]


@pytest.mark.parametrize(("rows", "parts", "timed"), [(7, 1, 5), (ROWS, 1, 5), (2 * ROWS + 500, 2, 6), (6 * ROWS, 6, 6)])
def test_all_whole_batches_are_timed_after_one_that_is_not(rows: int, parts: int, timed: int) -> None:
    batch, noting = next(make_batches(SCHEMA, 1, size=rows)), Noting()
    found = latency_of(noting, batch)
    assert (found.rows, found.batches, found.threads) == (min(rows, ROWS), timed, torch.get_num_threads())
    assert found.milliseconds > 0 and len(noting.batches) == timed + 1
    scored = torch.cat([part.dense for part in noting.batches[1 : parts + 1]])
    assert torch.equal(scored, batch.dense[: parts * found.rows])
