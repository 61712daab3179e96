"""Sampling errors of a report: confidence intervals of each model's metrics, and comparisons of models on the day's rows.

Rows of one user are not independent. If a dataset has users, errors are therefore computed from one group of rows per user.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ml.evaluation.compare import Estimate, LabelledRows, Linearised, combine
from ml.evaluation.scores import Scores
from ml.schema import MISSING_ID, USER_KEY

JUDGED_FROM = 30
"""Clicked, and unclicked, rows from which on a report judges a model."""
INTERVALS = ("auc", "log_loss", "calibration")


class Uncertainty:
    """Errors of the metrics of all predictions of a day.

    Args:
        scores: Predictions for the N rows of the day.
        ranks_only: Names of predictions that only order rows.
        weights: Positive weights [N]; by default 1.
    """

    def __init__(self, scores: Scores, ranks_only: Iterable[str] = (), weights: NDArray[Any] | None = None) -> None:
        self._rows = LabelledRows(scores.labels, user_groups(scores.keys), weights)
        self._of: dict[str, dict[str, Linearised | None]] = {}
        for name, found in scores.by.items():
            self._of[name] = dict.fromkeys(INTERVALS) | {"auc": self._rows.auc(found)}
            if name not in ranks_only:
                self._of[name] |= {"log_loss": self._rows.log_loss(found), "calibration": self._rows.calibration(found)}

    def values(self, name: str) -> dict[str, float | None]:
        """AUC, log loss and calibration; None if undefined."""
        found = self._of.get(name, dict.fromkeys(INTERVALS))
        return {metric: None if of is None else of.value for metric, of in found.items()}

    def intervals(self, name: str) -> dict[str, list[float] | None]:
        """95 % confidence intervals of AUC, log loss and calibration; None if undefined or if there are too few rows."""
        found = self._of.get(name, dict.fromkeys(INTERVALS))
        return {metric: self._interval(metric, of) for metric, of in found.items()}

    def compare(self, one: str, other: str) -> dict[str, Any] | None:
        """Differences of two models in AUC and log loss, as JSON values; None if one of them is not scored."""
        if one not in self._of or other not in self._of:
            return None
        return {metric: self._difference(one, other, metric) for metric in ("auc", "log_loss")}

    def _difference(self, one: str, other: str, metric: str) -> dict[str, Any] | None:
        a, b = self._of[one][metric], self._of[other][metric]
        if a is None or b is None:
            return None
        found = self._rows.compare(a, b)
        return asdict(found) | {"p_above": found.p_above()}

    def _interval(self, metric: str, of: Linearised | None) -> list[float] | None:
        if of is None:
            return None
        found = self._rows.estimate(of, 0.5 if metric == "auc" else None)
        if metric == "calibration" and of.value > 0 and found.error is not None:  # a ratio: even on the log scale
            on_logs = Estimate(float(np.log(of.value)), found.error / of.value, found.df).interval()
            return None if on_logs is None else np.exp(on_logs).tolist()
        interval = found.interval()
        if interval is None:
            return None
        return [max(0.0, interval[0]), min(1.0, interval[1]) if metric == "auc" else interval[1]]


def user_groups(keys: pa.Table) -> NDArray[np.int64] | None:
    """Number the users of N rows, int64 [N]. A row without a user is a group of its own. None if the dataset has no users."""
    if USER_KEY not in keys.column_names:
        return None
    users = keys.column(USER_KEY).to_numpy()
    groups = np.unique(users, return_inverse=True)[1].astype(np.int64)
    missing = users == MISSING_ID
    groups[missing] = len(users) + np.arange(int(missing.sum()))
    return groups


def compare_models(uncertainty: Uncertainty, models: Mapping[str, str], baselines: Iterable[str]) -> list[dict[str, Any]]:
    """Compare the first model with each baseline, and all models with each other.

    Args:
        uncertainty: Of the day.
        models: By name, the name of the predictions.
        baselines: Names of predictions.

    Returns:
        For each pair `one`, `other`, and by metric (`auc`, `log_loss`) the difference `value`, its `error`, degrees of freedom
        `df`, and the one-sided p-value of `one` not being above `other`.
    """
    first = next(iter(models), None)
    pairs = [] if first is None else [((first, models[first]), (name, name)) for name in baselines]
    pairs += list(combinations(models.items(), 2))
    compared = [
        (one, other, uncertainty.compare(one_scores, other_scores)) for (one, one_scores), (other, other_scores) in pairs
    ]
    return [{"one": one, "other": other, **found} for one, other, found in compared if found]


def difference(report: Mapping[str, Any], one: str, other: str, metric: str) -> Estimate | None:
    """Look up the difference of two models in a report; None if the report does not compare them by this metric."""
    for pair in report.get("comparisons") or ():
        found = pair[metric]
        if found is None or {pair["one"], pair["other"]} != {one, other}:
            continue
        estimate = Estimate(found["value"], found["error"], found["df"])
        return estimate if pair["one"] == one else -estimate
    return None


def is_better(reports: Iterable[Mapping[str, Any]], one: str, other: str) -> bool:
    """Whether one model is significantly better than another one on the days of some reports together.

    Log loss decides if the AUCs are equal on every day.
    """
    held = list(reports)
    by_auc = [found for report in held if (found := difference(report, one, other, "auc"))]
    if any(found.value for found in by_auc):
        together = combine(by_auc)
        return together is not None and together.is_above()
    together = combine([found for report in held if (found := difference(report, one, other, "log_loss"))])
    return together is not None and together.is_below()


def too_few(metrics: Mapping[str, Any]) -> str | None:
    """Say that a day has too few rows of a class to judge a model; None if it has enough. metrics: content of a report."""
    data, words = metrics["data"], metrics["words"]
    clicked = data["clicks"]
    unclicked = data["rows"] - clicked
    if min(clicked, unclicked) >= JUDGED_FROM:
        return None
    count, what = min((clicked, words["positive"]), (unclicked, words["negative"]))
    return f"Only {count} {'row is' if count == 1 else 'rows are'} {what}, too few to judge a model ({JUDGED_FROM} are enough)."
