"""Sampling error of metrics, and the paired comparison of two models on the same rows.

Whatever is called better than something else is compared here: an export with the trained model, a model with a baseline, a
challenger with the champion. A metric is linearised: every row has an influence, which is about how much the metric would move
if the row occurred twice. The squared influences add up to the variance, and the influences of a difference are the differences
of the influences, so the correlation of two models that score the same rows is taken into account.

For the AUC, influences are the placement values of DeLong, DeLong and Clarke-Pearson (1988), computed from mid-ranks in
O(N log N) as by Sun and Xu (2014). With groups, such as the rows of one user, influences are added up by group first, because
rows of a group are not independent (Obuchowski, 1997).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from ml.metrics import CLIP

ALPHA = 0.05
"""Largest one-sided p-value of a difference that is called significant."""
CONFIDENCE = 0.95
"""Level of two-sided intervals."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A metric, or a difference of two metrics, with its sampling error. Tests use Student's t distribution.

    Attributes:
        value: Metric or difference.
        error: Standard error; None if there are too few rows to estimate it.
        df: Degrees of freedom: rows, or groups, of the rarer class, less one.

    Example:
        >>> found = Estimate(0.01, error=0.004, df=200)
        >>> found.is_above(0.0), found.is_above(0.005)
        (True, False)
        >>> low, high = found.interval()
        >>> round(low, 4), round(high, 4)
        (0.0021, 0.0179)
    """

    value: float
    error: float | None
    df: int

    def p_above(self, limit: float = 0.0) -> float:
        """One-sided p-value of the hypothesis that the true value is at most `limit`: small if it is above the limit."""
        if self.error is None:
            return 1.0
        beyond = self.value - limit
        if self.error == 0.0:
            return 0.0 if beyond > 0 else 1.0
        return float(stdtr(self.df, -beyond / self.error))

    def is_above(self, limit: float = 0.0, alpha: float = ALPHA) -> bool:
        """Whether the true value is above `limit`, at the significance level `alpha`."""
        return self.p_above(limit) < alpha

    def is_below(self, limit: float = 0.0, alpha: float = ALPHA) -> bool:
        """Whether the true value is below `limit`, at the significance level `alpha`."""
        return (-self).is_above(-limit, alpha)

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float] | None:
        """Two-sided confidence interval; None if the error is unknown."""
        if self.error is None:
            return None
        reach = self.error * float(stdtrit(self.df, (1 + confidence) / 2))
        return self.value - reach, self.value + reach

    def __neg__(self) -> Estimate:
        return Estimate(-self.value, self.error, self.df)


@dataclass(frozen=True)
class Linearised:
    """A metric of N rows.

    Attributes:
        value: The metric.
        influence: Influence of each row on the metric, float64 [N]; sums to about 0.
    """

    value: float
    influence: Floats

    def __sub__(self, other: Linearised) -> Linearised:
        """The difference of the metrics of two models on the same rows."""
        return Linearised(self.value - other.value, self.influence - other.influence)


class LabelledRows:
    """N rows on which predictions are scored and compared.

    Args:
        labels: 0 or 1, [N].
        groups: Integers [N]; rows with the same one are not independent. By default every row is independent.
        weights: Positive weights [N], such as inverse sampling rates; by default 1.

    Raises:
        ValueError: The arrays have other shapes, or a weight is not positive.

    Example:
        >>> rows = LabelledRows([0, 1, 0, 1, 0, 1])
        >>> one, other = rows.auc([.1, .9, .2, .8, .3, .7]), rows.auc([.1, .9, .8, .2, .3, .7])
        >>> round(rows.compare(one, other).value, 4)
        0.3333
    """

    def __init__(self, labels: Any, groups: Any = None, weights: Any = None) -> None:
        self.clicked = np.asarray(labels) > 0.5
        self.weights = np.ones(self.clicked.size) if weights is None else np.asarray(weights, np.float64)
        if self.clicked.ndim != 1 or self.weights.shape != self.clicked.shape:
            raise ValueError(
                f"labels {self.clicked.shape} and weights {self.weights.shape}: expected two arrays of the same [N]"
            )
        if not (self.weights > 0).all():
            raise ValueError("weights: expected positive numbers")
        self._group: NDArray[np.int64] | None = None
        if groups is not None:
            codes = np.asarray(groups)
            if codes.shape != self.clicked.shape:
                raise ValueError(f"labels {self.clicked.shape} and groups {codes.shape}: expected two arrays of the same [N]")
            self._group = np.unique(codes, return_inverse=True)[1].astype(np.int64)

    @cached_property
    def units(self) -> tuple[int, int]:
        """Rows, or groups, with a click and without one. A group can have both."""
        if self._group is None:
            clicks = int(self.clicked.sum())
            return clicks, self.clicked.size - clicks
        return len(np.unique(self._group[self.clicked])), len(np.unique(self._group[~self.clicked]))

    @cached_property
    def df(self) -> int:
        """Degrees of freedom: units of the rarer class, or of the only one, less one."""
        return min((units for units in self.units if units), default=0) - 1

    def auc(self, scores: Any) -> Linearised | None:
        """The AUC, as `ml.metrics.auc` computes it. scores: [N], in any monotone unit. None if only one class is present."""
        if not self.clicked.any() or self.clicked.all():
            return None
        found = np.asarray(scores)
        order = np.argsort(found)
        found = found[order]
        tie = np.concatenate([[0], np.cumsum(found[1:] != found[:-1])])  # [N]: number of the group of equal scores
        clicked, weights = self.clicked[order], self.weights[order]
        clicked_in, unclicked_in = (
            np.bincount(tie, np.where(of_class, weights, 0.0), tie[-1] + 1) for of_class in (clicked, ~clicked)
        )  # [T] each
        clicked_below = np.cumsum(clicked_in) - clicked_in / 2  # a tie counts one half
        unclicked_below = np.cumsum(unclicked_in) - unclicked_in / 2
        clicks, unclicked = clicked_in.sum(), unclicked_in.sum()
        value = float((clicked_in * unclicked_below).sum() / (clicks * unclicked))
        # Share of the other class that each row is ranked correctly against.
        of_clicked, of_unclicked = unclicked_below / unclicked - value, 1 - clicked_below / clicks - value
        influence = np.empty(len(found))
        influence[order] = weights * np.where(clicked, of_clicked[tie] / clicks, of_unclicked[tie] / unclicked)
        return Linearised(value, influence)

    def log_loss(self, probabilities: Any) -> Linearised | None:
        """The mean log loss in nats. probabilities: [N]. None without rows."""
        if not self.clicked.size:
            return None
        clipped = np.clip(np.asarray(probabilities, np.float64), CLIP, 1 - CLIP)
        losses = -np.where(self.clicked, np.log(clipped), np.log1p(-clipped))
        return _ratio(losses, np.ones(losses.size), self.weights)

    def calibration(self, probabilities: Any) -> Linearised | None:
        """Predicted divided by observed clicks. probabilities: [N]. None without clicks."""
        if not self.clicked.any():
            return None
        return _ratio(np.asarray(probabilities, np.float64), self.clicked.astype(np.float64), self.weights)

    def click_rate(self, mask: Any = None) -> Linearised | None:
        """The share of clicked rows among the rows of a mask, bool [N], by default all. None without rows."""
        chosen = np.ones(self.clicked.size) if mask is None else np.asarray(mask, np.float64)
        return _ratio(self.clicked * chosen, chosen, self.weights) if chosen.any() else None

    def estimate(self, metric: Linearised, null: float | None = None) -> Estimate:
        """Add the sampling error to a metric.

        Args:
            metric: A metric of these rows, or a difference of two.
            null: Value of the metric if there is nothing to find, such as 0.5 for an AUC. One more unit of each class, with
                this value, keeps the error above zero on few rows that all agree. By default there is none.
        """
        if self.df < 1:
            return Estimate(metric.value, None, 0)
        of_units = metric.influence if self._group is None else np.bincount(self._group, metric.influence)
        if self._group is None:
            parts = [
                (of_units[of_class], units) for of_class, units in ((self.clicked, 0), (~self.clicked, 1)) if self.units[units]
            ]
            variance = sum(float(part @ part) * self.units[units] / (self.units[units] - 1) for part, units in parts)
        else:
            variance = float(of_units @ of_units) * of_units.size / (of_units.size - 1)
        if null is not None:
            variance += (metric.value - null) ** 2 * sum(units**-2.0 for units in self.units if units)
        return Estimate(metric.value, float(np.sqrt(variance)), self.df)

    def compare(self, one: Linearised, other: Linearised) -> Estimate:
        """The difference of the metrics of two models on the same rows."""
        return self.estimate(one - other, null=0.0)


def combine(estimates: Sequence[Estimate]) -> Estimate | None:
    """Average independent estimates of the same difference, such as those of several days, weighted by their units.

    Args:
        estimates: Those without an error are left out.

    Returns:
        None if none has an error.
    """
    known = [(found.value, found.error, found.df) for found in estimates if found.error is not None]
    if not known:
        return None
    value, error, df = np.array(known).T
    share = (df + 1) / (df + 1).sum()
    return Estimate(float(share @ value), float(np.sqrt((share**2) @ (error**2))), int(df.sum()))


def _ratio(numerator: Floats, denominator: Floats, weights: Floats) -> Linearised:
    total = float(weights @ denominator)
    value = float(weights @ numerator) / total
    return Linearised(value, weights * (numerator - value * denominator) / total)
