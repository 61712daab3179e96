"""Metrics of predicted click probabilities, as sums that merge over chunks, slices, days and ranks.

`ClickSums` holds the sums; metrics are computed from them at the end. An undefined metric, such as the AUC of a single class or
the log loss of no rows, is None.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

CLIP = 1e-7  # the log loss clips probabilities to [CLIP, 1 - CLIP], about the resolution of float32
BINS = 4096
LOGIT_RANGE = 16.2  # bins divide [-LOGIT_RANGE, LOGIT_RANGE] evenly; contains the log-odds of CLIP and 1 - CLIP


def auc(labels: NDArray[Any], scores: NDArray[Any]) -> float | None:
    """Compute the exact area under the ROC curve: the share of (positive, negative) pairs in the right order.

    A tie counts one half (Mann and Whitney, 1947).

    Args:
        labels: 0 or 1, [N].
        scores: Scores [N], in any monotone unit.

    Returns:
        The AUC, or None if only one class is present.
    """
    order = np.argsort(scores)
    return auc_of_sorted(np.asarray(labels)[order] > 0.5, np.asarray(scores)[order])


def auc_of_sorted(positive: NDArray[np.bool_], scores: NDArray[Any]) -> float | None:
    """Compute `auc` of rows in ascending order of their scores. The order of ties does not matter.

    Args:
        positive: bool [N], whether each row is positive.
        scores: Scores [N], ascending. NaNs are last and tie with each other.

    Returns:
        The AUC, or None if only one class is present.
    """
    positives = int(positive.sum())
    negatives = positive.size - positives
    if not positives or not negatives:
        return None
    differs = (scores[1:] != scores[:-1]) & ~(np.isnan(scores[1:]) & np.isnan(scores[:-1]))
    first = np.flatnonzero(np.concatenate([[True], differs]))  # [T]: where each group of ties begins
    mean_rank = first + (np.diff(first, append=positive.size) + 1) / 2
    rank_sum = (mean_rank * np.add.reduceat(positive, first, dtype=np.int64)).sum()
    return float((rank_sum - positives * (positives + 1) / 2) / (positives * negatives))


@dataclass(frozen=True)
class CalibrationBin:
    """Rows with similar predictions.

    Args:
        rows: Number of rows.
        predicted: Mean predicted probability.
        observed: Share of clicked rows.
        error: Standard error of `observed`.
    """

    rows: int
    predicted: float
    observed: float
    error: float


@dataclass(frozen=True)
class ClickSums:
    """Sums over predicted click probabilities. `a + b` holds the sums over the rows of both.

    Args:
        rows: Number of rows.
        clicks: Number of clicked rows.
        predicted: Sum of the probabilities.
        total_log_loss: Sum of the log losses, in nats.
        shown_in: Number of rows in each bin of predicted log-odds, int64 [BINS].
        clicked_in: Number of clicked rows in each bin, int64 [BINS].
        predicted_in: Sum of the probabilities in each bin, float64 [BINS].

    Example:
        >>> whole = ClickSums.of([0, 1, 1], [0.2, 0.7, 0.9])
        >>> parts = ClickSums.of([0], [0.2]) + ClickSums.of([1, 1], [0.7, 0.9])
        >>> whole.rows, parts.rows, round(whole.calibration, 6), round(parts.calibration, 6)
        (3, 3, 0.9, 0.9)
    """

    rows: int = 0
    clicks: int = 0
    predicted: float = 0.0
    total_log_loss: float = 0.0
    shown_in: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))  # rows by predicted log-odds
    clicked_in: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    predicted_in: NDArray[np.float64] = field(default_factory=lambda: np.zeros(BINS))

    @classmethod
    def of(cls, labels: Any, probabilities: Any) -> ClickSums:
        """Compute the sums over rows.

        Args:
            labels: 0 or 1, [N].
            probabilities: Predicted probabilities in [0, 1], [N].

        Raises:
            ValueError: The arrays have other shapes or values.
        """
        y, p = np.asarray(labels, np.float64), np.asarray(probabilities, np.float64)
        if y.shape != p.shape or y.ndim != 1:
            raise ValueError(f"labels {y.shape} and probabilities {p.shape}: expected two arrays of the same [N]")
        if not ((y == 0) | (y == 1)).all():
            raise ValueError("labels: expected 0 and 1 only")
        if not ((p >= 0) & (p <= 1)).all():
            raise ValueError(f"probabilities: row {int(np.argmax(~((p >= 0) & (p <= 1))))} is not in [0, 1]")
        clipped = np.clip(p, CLIP, 1 - CLIP)
        log_odds = np.log(clipped) - np.log1p(-clipped)
        bins = np.minimum(((log_odds + LOGIT_RANGE) * (BINS / (2 * LOGIT_RANGE))).astype(np.int64), BINS - 1)
        return cls(
            rows=y.size,
            clicks=int(y.sum()),
            predicted=float(p.sum()),
            total_log_loss=float(-np.where(y == 1, np.log(clipped), np.log1p(-clipped)).sum()),
            shown_in=np.bincount(bins, minlength=BINS),
            clicked_in=np.bincount(bins[y == 1], minlength=BINS),
            predicted_in=np.bincount(bins, weights=p, minlength=BINS).astype(np.float64),
        )

    def __add__(self, other: ClickSums) -> ClickSums:
        return ClickSums(**{name: getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__})

    @property
    def label_rate(self) -> float | None:
        """Share of clicked rows."""
        return self.clicks / self.rows if self.rows else None

    @property
    def mean_prediction(self) -> float | None:
        """Mean predicted probability."""
        return self.predicted / self.rows if self.rows else None

    @property
    def log_loss(self) -> float | None:
        """Mean log loss in nats: `-y ln p - (1 - y) ln(1 - p)`."""
        return self.total_log_loss / self.rows if self.rows else None

    @property
    def normalised_entropy(self) -> float | None:
        """Log loss divided by the entropy of the label rate (He et al., 2014). Predicting the rate gives 1."""
        rate, loss = self.label_rate, self.log_loss
        if rate is None or loss is None or rate in (0.0, 1.0):
            return None
        return loss / float(-rate * np.log(rate) - (1 - rate) * np.log1p(-rate))

    @property
    def calibration(self) -> float | None:
        """Predicted clicks divided by observed clicks; None without clicks."""
        return self.predicted / self.clicks if self.clicks else None

    def roc(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Compute the ROC curve from the bins.

        Returns:
            False and true positive rates from (0, 0) to (1, 1), with a point for each non-empty bin; empty unless both classes
            are present.
        """
        unclicked = self.rows - self.clicks
        if not self.clicks or not unclicked:
            return np.zeros(0), np.zeros(0)
        used = np.flatnonzero(self.shown_in)[::-1]
        true = np.cumsum(self.clicked_in[used]) / self.clicks
        false = np.cumsum((self.shown_in - self.clicked_in)[used]) / unclicked
        return np.concatenate([[0.0], false]), np.concatenate([[0.0], true])

    def calibration_bins(self, count: int = 12) -> list[CalibrationBin]:
        """Group rows into at most `count` bins of about equal size, by ascending prediction; ties are in the same bin."""
        if not self.rows:
            return []
        used = np.flatnonzero(self.shown_in)
        middle = np.cumsum(self.shown_in[used]) - self.shown_in[used] / 2
        of_bin = (middle * count / self.rows).astype(np.int64)
        rows, clicks, predicted = (
            np.bincount(of_bin, weights=sums[used], minlength=count)
            for sums in (self.shown_in, self.clicked_in, self.predicted_in)
        )
        bins = []
        for n, c, p in zip(rows.tolist(), clicks.tolist(), predicted.tolist(), strict=True):
            if n:
                rate = c / n
                bins.append(CalibrationBin(int(n), p / n, rate, float(np.sqrt(rate * (1 - rate) / n))))
        return bins

    def histogram(self, count: int = 64) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
        """Count unclicked and clicked rows in `count` bins of log-odds.

        Returns:
            Edges of the bins, float64 [count + 1]; unclicked rows and clicked rows of each bin, int64 [count] each.
        """
        clicked, shown = (sums.reshape(count, -1).sum(axis=1) for sums in (self.clicked_in, self.shown_in))
        return np.linspace(-LOGIT_RANGE, LOGIT_RANGE, count + 1), shown - clicked, clicked


METRICS = ("mean_prediction", "auc", "log_loss", "normalised_entropy", "calibration")


def count_clicks(labels: NDArray[Any]) -> dict[str, float | int | None]:
    """Count rows and clicks of [N] labels, and their rate; None without rows."""
    rows, clicks = len(labels), int(np.sum(np.asarray(labels) > 0.5))
    return {"rows": rows, "clicks": clicks, "label_rate": clicks / rows if rows else None}


def metrics_of(sums: ClickSums | None, area: float | None, ranks_only: bool = False) -> dict[str, float | int | None]:
    """Compute `METRICS` from sums over the rows.

    Args:
        sums: Sums over the predictions; None without predictions.
        area: AUC of the predictions; None if it is undefined.
        ranks_only: True if the predictions only order rows and are not probabilities, so that only the AUC is defined.

    Returns:
        Each metric by name; None if it is undefined.
    """
    if sums is None or ranks_only:
        return dict.fromkeys(METRICS) | {"auc": area}
    return {
        "mean_prediction": sums.mean_prediction,
        "auc": area,
        "log_loss": sums.log_loss,
        "normalised_entropy": sums.normalised_entropy,
        "calibration": sums.calibration,
    }


def summary(
    labels: NDArray[Any], probabilities: NDArray[Any] | None, ranks_only: bool = False
) -> dict[str, float | int | None]:
    """Compute rows, clicks and label rate of [N] labels, and `METRICS` of the predictions [N]; None where undefined."""
    if probabilities is None:
        return count_clicks(labels) | metrics_of(None, None)
    sums = ClickSums.of(labels, probabilities)
    return count_clicks(labels) | metrics_of(sums, auc(labels, probabilities), ranks_only)
