"""Paired comparisons of several seeds: errors of rows and of seeds add up, and equal predictions differ by nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ml.evaluation.compare import LabelledRows
from ml.studies.paired import Predictions, as_json, as_text, difference, mean_of

RNG = np.random.default_rng(0)
LABELS = (RNG.random(400) < 0.3).astype(np.float32)


def predicted(noise: float, seed: int) -> Predictions:
    scores = LABELS + noise * np.random.default_rng(seed).standard_normal(400)
    return {"2026-01-02": (LABELS, (1 / (1 + np.exp(-scores))).astype(np.float32))}


def test_one_seed_is_the_project_s_paired_comparison() -> None:
    one, other = predicted(0.5, 1), predicted(2.0, 2)
    found, rows = difference([one], [other], "auc"), LabelledRows(LABELS)
    a, b = rows.auc(one["2026-01-02"][1]), rows.auc(other["2026-01-02"][1])
    assert a and b
    expected = rows.estimate(a - b)
    assert found.value == pytest.approx(expected.value) and found.error == pytest.approx(expected.error)
    assert found.is_above(0.0)


def test_seeds_that_differ_widen_the_interval() -> None:
    others = [predicted(2.0, 9)] * 3
    alike = difference([predicted(0.5, 1)] * 3, others, "auc")
    apart = difference([predicted(0.2, 1), predicted(1.0, 2), predicted(3.0, 3)], others, "auc")
    assert alike.error and apart.error and apart.error > 2 * alike.error and apart.df < alike.df


def test_equal_predictions_do_not_differ() -> None:
    found = difference([predicted(1.0, 1)], [predicted(1.0, 1)], "log_loss")
    assert as_json(found) == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_a_missing_interval_is_left_out() -> None:
    assert mean_of([0.5]).interval() is None
    assert as_text(as_json(mean_of([0.5])), 1) == "0.5"
    assert as_text(as_json(mean_of([1.0, 1.0])), 1) == "1.0 (1.0 to 1.0)"
    assert mean_of([1.0, 3.0]).error == pytest.approx(math.sqrt(2) / math.sqrt(2))


def test_other_days_and_single_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="same days"):
        difference([predicted(1.0, 1)], [{}], "auc")
    only = {"2026-01-02": (np.ones(4, np.float32), np.full(4, 0.5, np.float32))}
    with pytest.raises(ValueError, match="one class"):
        difference([only], [only], "auc")
