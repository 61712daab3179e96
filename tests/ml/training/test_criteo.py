"""The recipe on Criteo's log, from raw logs to predictions: one pass over days 1 to 6, and day 7 as test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ml.catalog.spec import DatasetSpec
from ml.compute.runner import LocalRunner
from ml.datasets.reader import BlockReader
from ml.datasets.write import write_day
from ml.features.clean import clean_day
from ml.lake import Lake
from ml.logs.ingest import ingest_day
from ml.metrics import auc
from ml.models.predict import predict
from ml.training.day import DayOptions, train_day
from ml.training.load import load_model


@pytest.mark.slow
def test_six_days_in_one_pass_predict_the_seventh(lake: Lake, catalog: dict[str, DatasetSpec], real_logs: Path) -> None:
    spec, logs, runner = catalog["criteo"], str(real_logs / "criteo"), LocalRunner()
    trained = []
    for day in spec.days():
        ingest_day(spec.log, day, logs, lake, runner)
        clean_day(spec, day, lake, logs, runner)
        write_day(spec, day, lake, runner)
        trained.append(train_day(spec, day, lake, options=DayOptions(progress=False)))
    assert trained[-1].rows_so_far == sum(t.report.rows for t in trained) == 137_139

    *_, sixth, seventh = spec.days()
    batches = list(BlockReader(lake, spec, [seventh], splits=("train", "validation", "test"), batch_size=4096))
    probabilities = predict(load_model(lake, spec, sixth), batches)
    labels = np.concatenate([batch.labels.numpy() for batch in batches])
    assert (auc(labels, probabilities) or 0) >= 0.757
    assert probabilities.mean() / labels.mean() == pytest.approx(1, abs=0.05)
