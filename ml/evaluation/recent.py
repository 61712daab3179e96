"""Means of metrics over the last reported days, with their standard errors.

One day is a small sample: its figure moves by more than models differ. Each day is scored by models of the days before, so the
mean over days is a figure of the same kind with less noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

DAYS = 7
METRICS = ("auc", "log_loss")
RANKING_METRICS = ("recall@20", "mrr@20")


def ranking_entry(ranking: Mapping[str, Any] | None) -> dict[str, dict[str, float | None]]:
    """Return what later reports need of a day's ranking, by name of model and of source; empty without a ranking."""
    found = {} if ranking is None else {**ranking["sources"], **ranking["models"]}
    return {name: {metric: of[metric] for metric in RANKING_METRICS} for name, of in found.items()}


def recent_means(history: Sequence[Mapping[str, Any]], days: int = DAYS) -> dict[str, Any]:
    """Average the metrics of the last reported days.

    Args:
        history: Entries of `history` in `metrics.json`, in the order of days.
        days: Largest number of days.

    Returns:
        `days`, the days that scored a model, and `systems`: by name of model, baseline and source, then by metric, `mean`,
        `standard_error` and the number of `days`. Days on which a metric is undefined do not count for it.
    """
    last = [entry for entry in history if entry["models"]][-days:]
    values: dict[str, dict[str, list[float]]] = {}
    for entry in last:
        scored = {name: {metric: of[metric] for metric in METRICS} for name, of in entry["models"].items()}
        scored["logistic_regression"] = {"auc": entry["logistic_regression"]}
        for found in (scored, entry.get("ranking") or {}):
            for name, metrics in found.items():
                for metric, value in metrics.items():
                    if value is not None:
                        values.setdefault(name, {}).setdefault(metric, []).append(value)
    systems = {name: {metric: _mean(of) for metric, of in metrics.items()} for name, metrics in values.items()}
    return {"days": [entry["day"] for entry in last], "systems": systems}


def _mean(values: Sequence[float]) -> dict[str, Any]:
    count = len(values)
    error = float(np.std(values, ddof=1) / np.sqrt(count)) if count > 1 else None
    return {"mean": float(np.mean(values)), "standard_error": error, "days": count}
