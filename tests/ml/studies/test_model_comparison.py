"""The last day is scored whole, and a metric of zero is not taken for an undefined one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from torch import nn

from ml.datasets.batch import Batch
from ml.lake import Lake
from ml.recipes.sampling import Correction
from ml.studies.model_comparison import compare
from ml.training import score
from tests.helpers.training_days import made_spec, write_days


def test_all_of_the_last_day_is_scored_whatever_was_trained_on(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    scored = []

    def worst(model: nn.Module, batches: Sequence[Batch], correction: Correction) -> tuple[np.ndarray, np.ndarray]:
        labels = np.concatenate([batch.labels.numpy() for batch in batches])
        scored.append((len(labels), correction))
        return labels, 1 - labels

    monkeypatch.setattr(score, "predict_labelled", worst)
    spec, days = made_spec(), write_days(lake, made_spec(), 2, 200)
    (found,) = compare(spec, days, lake, seeds=1, overrides={"splits": ["train"], "sampling_correction": True})
    assert scored == [(200, Correction(per_row=True))] and found.auc == 0.0
