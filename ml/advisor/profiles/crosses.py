"""The best crosses: pairs of features that say more about the label together than an additive model of the features does.

The measure is held-out log loss, so that pairs of pure noise gain nothing, however many cells they have:

1. The ids of a feature become codes: the most frequent ids, and one code for all others. There are at most `CODES` codes in
   crosses, and `FEATURE_CODES` for the feature alone. Dense features become quantile bins, for step 2 alone.
2. The rows are halved. Effects are fitted on one half and scored on the other, and vice versa. An additive logistic model of
   all features is fitted first, so that what another feature already says, such as an existing cross, is not gained again.
3. The effect of each pair of codes is fitted to the residuals, with a larger penalty than in step 2, so that a cross does
   not gain what a penalty has taken from the features alone. All pairs are scored by a quadratic approximation of log loss, in
   one direction.
4. The best pairs are fitted and scored exactly, in both directions. A pair is reported if its gain differs from zero
   significantly, at 5 % after Bonferroni's correction for the number of pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import log, sqrt
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from ml.advisor.profiles.profile import Cross
from ml.advisor.profiles.row_sample import RowSample

CODES, FEATURE_CODES = 64, 256
FEATURES = 64
"""Largest number of features whose pairs are scored; of more, those whose effects on the label vary most."""
REPORTED = 10
FEATURE_RIDGE, CROSS_RIDGE = 0.5, 8.0
"""Penalties of an effect, in units of p (1 - p) per row: 8 are about 30 rows at a label rate of one half."""
SWEEPS = 6
LEAST_GAIN = 1e-4  # bits; penalties alone can cause less
MOST_POSITIVE_SHARE = 0.05  # level of significance, for all pairs together

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]


def best_crosses(sample: RowSample, rows: int) -> tuple[Cross, ...]:
    """Finds the best crosses of features with one id per row.

    Args:
        sample: S of the rows.
        rows: Number of rows that the sample was taken from, for the number of distinct pairs.

    Returns:
        At most `REPORTED` crosses, by descending gain.
    """
    labels = sample.labels.astype(np.float64)
    if not 0 < labels.sum() < len(labels) or len(sample.sparse) < 2:
        return ()
    ranks = {name: frequency_ranks(ids) for name, ids in sample.sparse.items()}
    sparse = {name: np.minimum(rank, CODES - 1) for name, rank in ranks.items()}
    alone = [np.minimum(rank, FEATURE_CODES - 1) for rank in ranks.values()]
    codes = [*alone, *map(quantile_codes, sample.dense.values())]
    # Rows are in the order of their priorities, which are random.
    middle = len(labels) // 2
    first, second = slice(0, middle), slice(middle, None)
    fits = [_Additive(codes, labels, fitted, scored) for fitted, scored in ((first, second), (second, first))]
    spread = np.sum([fit.spread for fit in fits], axis=0)[: len(sparse)]
    names = {list(sparse)[i] for i in np.argsort(-spread, kind="stable")[:FEATURES]}
    pairs = list(combinations([name for name in sparse if name in names], 2))
    screened = _screen([(sparse[a], sparse[b]) for a, b in pairs], labels, fits[0])
    likely = [pairs[i] for i in np.argsort(-screened, kind="stable")[:REPORTED] if screened[i] > 0]
    least = NormalDist().inv_cdf(1 - MOST_POSITIVE_SHARE / len(pairs))
    found = []
    for a, b in likely:
        gain, error = _exact(sparse[a] * CODES + sparse[b], labels, fits)
        if gain > max(least * error, LEAST_GAIN):
            pair = (sample.sparse[a].astype(np.uint64) << np.uint64(32)) | sample.sparse[b]
            found.append(Cross((a, b), gain, distinct_of(pair, rows)))
    return tuple(sorted(found, key=lambda cross: -cross.gain)[:REPORTED])


def frequency_ranks(ids: npt.NDArray[np.uint32]) -> Codes:
    """Returns the rank of each id [S] by frequency; 0 for the most frequent id."""
    distinct, inverse, counts = np.unique(ids, return_inverse=True, return_counts=True)
    ranks = np.empty(len(distinct), np.int64)
    ranks[np.argsort(-counts, kind="stable")] = np.arange(len(distinct))
    return ranks[inverse]


def quantile_codes(values: npt.NDArray[np.float32], bins: int = 16) -> Codes:
    """Returns the quantile bin of each value [S]."""
    edges = np.unique(np.quantile(values, np.arange(1, bins) / bins, method="inverted_cdf"))
    return np.searchsorted(edges, values, side="left")


def distinct_of(values: npt.NDArray[np.uint64], rows: int) -> int:
    """Estimates the number of distinct values in `rows` rows from a sample [S] of them.

    It is the estimator GEE (Charikar et al., 2000): a value that occurs once in the sample stands for `sqrt(rows / S)` values.
    It is exact if the sample has all rows.
    """
    counts = np.unique(values, return_counts=True)[1]
    once = int(np.count_nonzero(counts == 1))
    return len(counts) - once + round(once * sqrt(max(rows / len(values), 1.0)))


def _sigmoid(logits: Floats) -> Floats:
    return 1 / (1 + np.exp(-logits))


class _Additive:
    """A logistic model of all features, fitted on one half of the rows by Newton's method, one feature after the other.

    Args:
        codes: Codes [S] of each feature.
        labels: Labels [S], 0 or 1.
        fitted: The rows that are fitted.
        scored: The other rows.
    """

    def __init__(self, codes: Sequence[Codes], labels: Floats, fitted: slice, scored: slice) -> None:
        self.fitted, self.scored = fitted, scored
        y = labels[fitted]
        rate = (y.sum() + 0.5) / (len(y) + 1)
        logits = np.full(len(labels), log(rate / (1 - rate)))
        own, tables = logits[fitted].copy(), [np.zeros(FEATURE_CODES) for _ in codes]
        columns = [code[fitted] for code in codes]
        for _ in range(SWEEPS):
            for table, code in zip(tables, columns, strict=True):
                p = _sigmoid(own)
                gradient = np.bincount(code, y - p, FEATURE_CODES) - FEATURE_RIDGE * table
                step = gradient / (np.bincount(code, p * (1 - p), FEATURE_CODES) + FEATURE_RIDGE)
                table += step
                own += step[code]
        for table, code in zip(tables, codes, strict=True):
            logits += table[code]
        self.logits = logits
        self.spread = np.array([table[code].var() for table, code in zip(tables, codes, strict=True)])


def _screen(pairs: Sequence[tuple[Codes, Codes]], labels: Floats, fit: _Additive) -> Floats:
    """Approximates the held-out gain in log loss of each pair, up to a factor, from sums over its cells."""
    cells, gains = CODES * CODES, np.zeros(len(pairs))
    p = _sigmoid(fit.logits)
    residuals, weights = labels - p, p * (1 - p)
    r1, w1, r2, w2 = (x[rows] for rows in (fit.fitted, fit.scored) for x in (residuals, weights))
    for i, (a, b) in enumerate(pairs):
        code = a * CODES + b
        fitted, scored = code[fit.fitted], code[fit.scored]
        effect = np.bincount(fitted, r1, cells) / (np.bincount(fitted, w1, cells) + CROSS_RIDGE)
        gains[i] = effect @ np.bincount(scored, r2, cells) - (effect * effect) @ np.bincount(scored, w2, cells) / 2
    return gains


def _exact(code: Codes, labels: Floats, fits: Sequence[_Additive]) -> tuple[float, float]:
    """Returns the held-out gain of one pair in bits per row, and its standard error."""
    cells, gains = CODES * CODES, np.empty(len(labels))
    for fit in fits:
        y, at, base = labels[fit.fitted], code[fit.fitted], fit.logits[fit.fitted]
        effect = np.zeros(cells)
        for _ in range(SWEEPS):
            p = _sigmoid(base + effect[at])
            gradient = np.bincount(at, y - p, cells) - CROSS_RIDGE * effect
            effect += gradient / (np.bincount(at, p * (1 - p), cells) + CROSS_RIDGE)
        before, y = fit.logits[fit.scored], labels[fit.scored]
        gains[fit.scored] = _log_loss(y, before) - _log_loss(y, before + effect[code[fit.scored]])
    return float(gains.mean()) / log(2), float(gains.std()) / log(2) / sqrt(len(gains))


def _log_loss(labels: Floats, logits: Floats) -> Floats:
    return np.logaddexp(0, logits) - labels * logits
