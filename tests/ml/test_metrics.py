"""Metrics agree with scikit-learn, and sums of parts are the sums of the whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import log_loss, roc_auc_score

from ml.metrics import CLIP, METRICS, ClickSums, auc, summary

SCORES = st.sampled_from([0.0, 0.001, 0.1, 0.25, 0.25000001, 0.5, 0.9, 1.0]) | st.floats(0, 1)


@st.composite
def predictions(draw: st.DrawFn, least: int = 0) -> tuple[np.ndarray, np.ndarray]:
    n = draw(st.integers(least, 60))
    return draw(arrays(np.float32, n, elements=st.sampled_from([0.0, 1.0]))), draw(arrays(np.float64, n, elements=SCORES))


@given(predictions(least=2))
def test_auc_is_scikit_learns_with_any_ties(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    labels, scores = drawn
    expected = roc_auc_score(labels, scores) if len(set(labels.tolist())) == 2 else None
    assert auc(labels, scores) == (None if expected is None else pytest.approx(expected, abs=1e-12))


@given(predictions(least=1))
def test_log_loss_and_normalised_entropy_are_scikit_learns(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    labels, scores = drawn
    sums = ClickSums.of(labels, scores)
    expected = log_loss(labels, np.clip(scores, CLIP, 1 - CLIP), labels=[0, 1])
    assert sums.log_loss == pytest.approx(expected, rel=1e-9)
    if 0 < labels.mean() < 1:
        entropy = log_loss(labels, np.full(len(labels), labels.mean(dtype=np.float64)), labels=[0, 1])
        assert sums.normalised_entropy == pytest.approx(expected / entropy, rel=1e-6)
    else:
        assert sums.normalised_entropy is None


@given(st.lists(predictions(), min_size=1, max_size=4))
def test_sums_of_parts_are_the_sums_of_the_whole(parts: list[tuple[np.ndarray, np.ndarray]]) -> None:
    whole = ClickSums.of(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    merged = sum((ClickSums.of(*part) for part in parts), ClickSums())
    for name in ("rows", "clicks", "shown_in", "clicked_in"):
        assert np.array_equal(getattr(whole, name), getattr(merged, name))
    for name in ("label_rate", *METRICS[2:], "mean_prediction"):
        of_whole, of_merged = getattr(whole, name), getattr(merged, name)
        assert of_whole == (None if of_merged is None else pytest.approx(of_merged, rel=1e-9))


def test_the_curve_that_is_drawn_is_near_the_exact_one() -> None:
    rng = np.random.default_rng(0)
    truth = 1 / (1 + np.exp(2.5 - 1.2 * rng.normal(size=100_000)))
    labels = rng.random(len(truth)) < truth
    false, true = ClickSums.of(labels, truth).roc()
    assert np.trapezoid(true, false) == pytest.approx(auc(labels, truth), abs=1e-4)


def test_a_constant_score_has_auc_one_half_and_knowing_the_rate_entropy_one() -> None:
    labels = np.array([0, 0, 0, 1])
    found = summary(labels, np.full(4, 0.25))
    assert (found["auc"], found["calibration"]) == (0.5, 1.0)
    assert found["normalised_entropy"] == pytest.approx(1.0)


@pytest.mark.parametrize(("labels", "undefined"), [([], set(METRICS)), ([0, 0], {"auc", "normalised_entropy", "calibration"}),
                                                   ([1, 1], {"auc", "normalised_entropy"})])  # fmt: skip
def test_what_is_undefined_is_none(labels: list[int], undefined: set[str]) -> None:
    found = summary(np.array(labels), np.full(len(labels), 0.3))
    assert {name for name in METRICS if found[name] is None} == undefined


@pytest.mark.parametrize(
    ("labels", "scores"),
    [([0, 1], [0.5]), ([0, 2], [0.5, 0.5]), ([0, 1], [0.5, 1.5]), ([0, 1], [0.5, np.nan]), ([[0]], [[0.5]])],
)
def test_what_is_no_prediction_is_refused(labels: list, scores: list) -> None:
    with pytest.raises(ValueError):
        ClickSums.of(labels, scores)


@given(predictions())
def test_calibration_bins_part_the_rows_in_order(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    labels, scores = drawn
    bins = ClickSums.of(labels, scores).calibration_bins(5)
    assert len(bins) <= 5
    assert sum(found.rows for found in bins) == len(labels)
    assert sum(found.rows * found.observed for found in bins) == pytest.approx(labels.sum())
    assert sum(found.rows * found.predicted for found in bins) == pytest.approx(scores.sum())
    assert [found.predicted for found in bins] == sorted(found.predicted for found in bins)


def test_the_roc_goes_from_nothing_to_all() -> None:
    false, true = ClickSums.of([0, 1, 0, 1], [0.1, 0.2, 0.3, 0.4]).roc()
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    assert (np.diff(false) >= 0).all() and (np.diff(true) >= 0).all()
    assert [len(rates) for rates in ClickSums.of([1, 1], [0.1, 0.2]).roc()] == [0, 0]
