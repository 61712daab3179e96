"""Sampling errors against the bootstrap and against formulas written out, and comparisons that must not decide by noise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import ttest_1samp
from sklearn.metrics import log_loss, roc_auc_score

from ml.evaluation.compare import Estimate, LabelledRows, combine
from ml.metrics import auc
from tests.helpers.trials import examples, seeds

SCORES = st.sampled_from([0.0, 0.1, 0.25, 0.25000001, 0.5, 0.9, 1.0]) | st.floats(0, 1)


@st.composite
def two_models(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Labels of both classes, weights, and the scores of two models with many ties."""
    n = draw(st.integers(4, 40))
    labels = draw(arrays(np.float32, n, elements=st.sampled_from([0.0, 1.0])).filter(lambda y: 1 < y.sum() < len(y) - 1))
    weights = draw(arrays(np.float64, n, elements=st.sampled_from([0.5, 1.0, 4.0])))
    one, other = (draw(arrays(np.float64, n, elements=SCORES)) for _ in range(2))
    return labels, weights, one, other


def drawn(rng: np.random.Generator, n: int, rate: float = -2.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, and the probabilities of a fair and of a worse model that are correlated."""
    truth = rng.normal(rate, 1.0, n)
    labels = (rng.random(n) < 1 / (1 + np.exp(-truth))).astype(np.float64)
    one, other = truth + rng.normal(0, 0.5, n), truth + rng.normal(0, 1.0, n)
    return labels, *(1 / (1 + np.exp(-np.round(score, 1))) for score in (one, other))


def delong(labels: np.ndarray, one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Difference of AUCs and its standard error by comparing all pairs, as DeLong et al. write it."""
    clicked = labels > 0.5
    values = []
    for scores in (one, other):
        pairs = np.sign(scores[clicked][:, None] - scores[~clicked][None, :]) / 2 + 0.5
        values.append((pairs.mean(axis=1), pairs.mean(axis=0)))
    (v10, v01), (w10, w01) = values
    variance = np.var(v10 - w10, ddof=1) / len(v10) + np.var(v01 - w01, ddof=1) / len(v01)
    return v10.mean() - w10.mean(), float(np.sqrt(variance))


@examples(200)
@given(two_models())
def test_aucs_are_scikit_learns_with_ties_and_weights(found: tuple[np.ndarray, ...]) -> None:
    labels, weights, scores, _ = found
    plain = LabelledRows(labels).auc(scores)
    assert plain is not None and plain.value == auc(labels, scores), "the same bits as the metric of the report"
    weighted = LabelledRows(labels, weights=weights).auc(scores)
    assert weighted is not None
    assert weighted.value == pytest.approx(roc_auc_score(labels, scores, sample_weight=weights), abs=1e-12)
    assert abs(weighted.influence.sum()) < 1e-12


@examples(200)
@given(two_models())
def test_errors_of_aucs_are_those_of_all_pairs(found: tuple[np.ndarray, ...]) -> None:
    labels, _, one, other = found
    rows = LabelledRows(labels)
    a, b = rows.auc(one), rows.auc(other)
    assert a is not None and b is not None
    difference, error = delong(labels, one, other)
    plain = rows.estimate(a - b)
    assert plain.value == pytest.approx(difference, abs=1e-12) and plain.error == pytest.approx(error, abs=1e-12)
    assert plain.df == min(labels.sum(), len(labels) - labels.sum()) - 1
    cautious = rows.compare(a, b)
    assert cautious.error is not None and plain.error is not None and cautious.error >= plain.error
    assert cautious.error > 0 or cautious.value == 0


@examples(200)
@given(two_models())
def test_log_loss_and_calibration_are_weighted_means(found: tuple[np.ndarray, ...]) -> None:
    labels, weights, one, _ = found
    rows = LabelledRows(labels, weights=weights)
    loss, ratio = rows.log_loss(one), rows.calibration(one)
    assert loss is not None and ratio is not None
    clipped = np.clip(one, 1e-7, 1 - 1e-7)
    assert loss.value == pytest.approx(log_loss(labels, clipped, sample_weight=weights), rel=1e-9)
    assert ratio.value == pytest.approx((weights * one).sum() / (weights * labels).sum(), rel=1e-12)


@examples(100)
@given(two_models(), st.randoms(use_true_random=False))
def test_the_order_of_rows_and_the_unit_of_weights_do_not_matter(found: tuple[np.ndarray, ...], draw) -> None:
    labels, weights, one, other = found
    order = np.array(draw.sample(range(len(labels)), len(labels)))

    def compared(take: np.ndarray | slice, unit: float) -> Estimate:
        rows = LabelledRows(labels[take], np.arange(len(labels))[take] // 2, weights[take] * unit)
        a, b = rows.auc(one[take]), rows.auc(other[take])
        assert a is not None and b is not None
        return rows.compare(a, b)

    first, second = compared(slice(None), 1.0), compared(order, 7.0)
    assert second.value == pytest.approx(first.value, abs=1e-12) and second.df == first.df
    assert second.error == (None if first.error is None else pytest.approx(first.error, abs=1e-12))


@pytest.mark.parametrize("seed", seeds(2))
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_errors_are_those_of_the_bootstrap(seed: int, grouped: bool, weighted: bool) -> None:
    rng = np.random.default_rng(seed)
    labels, one, other = drawn(rng, 900)
    groups = np.arange(900)
    if grouped:  # every row three times: the error is the error of a third of the rows
        labels, one, other, groups = (np.tile(column, 3) for column in (labels, one, other, groups))
    weights = rng.choice([1.0, 3.0], len(labels)) if weighted else np.ones(len(labels))

    def metrics(take: np.ndarray) -> list[float]:
        rows = LabelledRows(labels[take], weights=weights[take])
        pairs = [(rows.auc(one[take]), rows.auc(other[take])), (rows.log_loss(one[take]), rows.log_loss(other[take]))]
        return [a.value - b.value for a, b in pairs if a and b] + [
            m.value for m in (pairs[0][0], rows.calibration(one[take])) if m
        ]

    members = [np.flatnonzero(groups == number) for number in range(900)]
    resampled = [metrics(np.concatenate([members[i] for i in rng.integers(0, 900, 900)])) for _ in range(400)]
    rows = LabelledRows(labels, groups if grouped else None, weights)
    a, b, c, d = rows.auc(one), rows.auc(other), rows.log_loss(one), rows.log_loss(other)
    ratio = rows.calibration(one)
    assert a and b and c and d and ratio
    found = [rows.compare(a, b), rows.compare(c, d), rows.estimate(a, 0.5), rows.estimate(ratio)]
    # 400 resamples give a standard error to 3.5 %.
    assert [estimate.error for estimate in found] == pytest.approx(np.std(resampled, axis=0), rel=0.15)


def test_a_difference_of_log_losses_is_a_paired_t_test() -> None:
    labels, one, other = drawn(np.random.default_rng(0), 5_000, 0.0)
    rows = LabelledRows(labels)
    a, b = rows.log_loss(one), rows.log_loss(other)
    assert a and b
    losses = [-np.log(np.where(labels > 0.5, p, 1 - p)) for p in (one, other)]
    expected = ttest_1samp(losses[0] - losses[1], 0.0, alternative="less").pvalue
    assert (-rows.compare(a, b)).p_above() == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("rows", [(2, 2), (3, 40), (10, 10), (200, 2_000)])
def test_equal_models_differ_significantly_as_rarely_as_the_level_says(rows: tuple[int, int]) -> None:
    """Also where few rows are clicked, and whether or not the models are correlated."""
    rng = np.random.default_rng(rows)
    clicked, unclicked = rows
    labels = np.repeat([1.0, 0.0], rows)
    trials = 600
    wrong = 0
    for _ in range(trials):
        shared = rng.normal(size=clicked + unclicked) + 0.5 * labels
        one, other = (1 / (1 + np.exp(-(shared + rng.normal(size=len(shared))))) for _ in range(2))
        of = LabelledRows(labels)
        a, b = of.auc(one), of.auc(other)
        assert a and b
        wrong += of.compare(a, b).is_above()
    assert wrong / trials < 0.05 + 3 * np.sqrt(0.05 * 0.95 / trials)


@pytest.mark.parametrize(("each", "significant"), [(1, False), (2, False), (3, False), (6, True)])
def test_a_few_rows_in_the_right_order_prove_nothing(each: int, significant: bool) -> None:
    """Of 2 and 2 rows one order in 6 is perfect by chance, of 3 and 3 one in 20, of 6 and 6 one in 924."""
    labels = np.repeat([1.0, 0.0], each)
    rows = LabelledRows(labels)
    perfect, constant = rows.auc(labels), rows.auc(np.zeros(2 * each))
    assert perfect and constant and perfect.value == 1.0 and constant.value == 0.5
    assert rows.compare(perfect, constant).is_above() == significant
    interval = rows.estimate(perfect, 0.5).interval()
    assert (interval is None) == (each == 1)
    assert interval is None or interval[0] < 0.96


def test_a_model_never_differs_from_itself() -> None:
    labels, one, _ = drawn(np.random.default_rng(0), 500)
    rows = LabelledRows(labels)
    found = rows.auc(one)
    assert found
    same = rows.compare(found, found)
    assert (same.value, same.error) == (0.0, 0.0) and not same.is_above() and not same.is_below() and same.is_above(-1e-9)


def test_what_is_undefined_is_none() -> None:
    nothing, unclicked, one = LabelledRows([]), LabelledRows([0, 0, 0]), LabelledRows([1])
    assert nothing.auc([]) is nothing.log_loss([]) is nothing.calibration([]) is None
    assert unclicked.auc([0.1, 0.2, 0.3]) is unclicked.calibration([0.1, 0.2, 0.3]) is None
    loss = unclicked.log_loss([0.1, 0.2, 0.3])
    assert loss and unclicked.estimate(loss).df == 2 and unclicked.estimate(loss).interval() is not None
    only = one.log_loss([0.3])
    assert only and one.estimate(only) == Estimate(only.value, None, 0)
    assert one.estimate(only).interval() is None and not one.estimate(only).is_above(-100)


@pytest.mark.parametrize(
    ("labels", "groups", "weights", "fault"),
    [
        ([0, 1], [1], None, r"groups \(1,\)"),
        ([0, 1], None, [1.0], r"weights \(1,\)"),
        ([0, 1], None, [1.0, 0.0], "expected positive"),
        ([0, 1], None, [1.0, np.nan], "expected positive"),
    ],
)
def test_wrong_arrays_are_refused(labels: list[int], groups: list[int] | None, weights: list[float] | None, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        LabelledRows(labels, groups, weights)


def test_days_together_decide_what_a_day_alone_does_not() -> None:
    days = [Estimate(value, 0.0035, 400) for value in (0.004, 0.005, 0.003)]
    together = combine(days)
    assert together == Estimate(pytest.approx(0.004), pytest.approx(0.0035 / np.sqrt(3)), 1200)
    assert not any(day.is_above() for day in days) and together.is_above()
    assert combine([*days, Estimate(1.0, None, 0)]) == together
    assert combine([]) is combine([Estimate(1.0, None, 0)]) is None
    tiny = combine([Estimate(0.1, 0.2, 1), *days])
    assert tiny and abs(tiny.value - 0.004) < 0.001, "a day of few clicks has little weight"
