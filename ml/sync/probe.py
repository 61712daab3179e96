"""A fixed set of labelled rows that a receiver scores after each sync, to find out whether a version is worse than the last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ml.artifacts.bundle import Bundle
from ml.datasets.batch import Batch
from ml.evaluation.compare import LabelledRows

ALPHA = 0.01
"""Largest one-sided p-value of a difference that causes a rollback; below `compare.ALPHA`, because every sync is a test."""


@dataclass(frozen=True)
class Verdict:
    """Quality of a version on the probe set.

    Attributes:
        log_loss: Mean log loss in nats; infinite if a prediction is not a number.
        auc: AUC; None if the probe set has labels of one class only.
        worse: Why the version is worse than the last good one; None if it is not.
    """

    log_loss: float
    auc: float | None
    worse: str | None


class Probe:
    """Scores versions on the same rows, and compares each with the last good version by `ml.evaluation.compare`.

    A version is worse if its log loss is significantly higher, or its AUC significantly lower, by more than a tolerance. The
    tolerance is necessary because two versions that differ by one update can already differ significantly on the same rows.

    Args:
        batches: The probe set, with labels, and with `sample_rate` if the model corrects for sampling.
        log_loss_tolerance: Increase of the log loss that is accepted, as a fraction of the last good version's.
        auc_tolerance: Decrease of the AUC that is accepted.

    Raises:
        ValueError: The probe set has no rows.
    """

    def __init__(self, batches: Sequence[Batch], log_loss_tolerance: float = 0.01, auc_tolerance: float = 0.005) -> None:
        self._batches = list(batches)
        if not sum(map(len, self._batches)):
            raise ValueError("the probe set has no rows")
        self._rows = LabelledRows(np.concatenate([batch.labels.numpy() for batch in self._batches]))
        self._log_loss_tolerance, self._auc_tolerance = log_loss_tolerance, auc_tolerance
        self._good: npt.NDArray[np.float32] | None = None  # predictions of the last good version

    def judge(self, bundle: Bundle) -> Verdict:
        """Score a version. Unless it is worse than the last good version, it becomes the last good version."""
        found = self._scores(bundle)
        if not np.isfinite(found).all():
            return Verdict(float("inf"), None, "a prediction is not a number")
        loss, auc = self._rows.log_loss(found), self._rows.auc(found)
        assert loss is not None
        worse = None if self._good is None else self._worse(found, self._good)
        if worse is None:
            self._good = found
        return Verdict(loss.value, auc.value if auc else None, worse)

    def accept(self, bundle: Bundle) -> None:
        """Make a version the last good one, however it scores, such as one that was chosen by hand."""
        self._good = self._scores(bundle)

    def _scores(self, bundle: Bundle) -> npt.NDArray[np.float32]:
        return np.concatenate([bundle.score(batch, sampled=True) for batch in self._batches])

    def _worse(self, found: npt.NDArray[np.float32], good: npt.NDArray[np.float32]) -> str | None:
        loss, before = self._rows.log_loss(found), self._rows.log_loss(good)
        assert loss is not None and before is not None
        if self._rows.compare(loss, before).is_above(self._log_loss_tolerance * before.value, ALPHA):
            return f"log loss {before.value:.4f} -> {loss.value:.4f}"
        auc, earlier = self._rows.auc(found), self._rows.auc(good)
        if auc and earlier and self._rows.compare(auc, earlier).is_below(-self._auc_tolerance, ALPHA):
            return f"AUC {earlier.value:.4f} -> {auc.value:.4f}"
        return None
