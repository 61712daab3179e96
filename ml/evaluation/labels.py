"""Metrics of each label of a dataset with several labels, and metrics that are weighted by sample weights.

The other metrics of a report are of the main label, and rows count equally. A model that is trained with sample weights learns
probabilities of the weighted rows, which can be far from the shares of the log: it is calibrated if its weighted calibration
is 1. AUC and log loss without weights say how it does on the log as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml.catalog.labels import MAIN
from ml.catalog.spec import DatasetSpec
from ml.evaluation.scores import Scores
from ml.evaluation.uncertainty import Uncertainty
from ml.metrics import METRICS, count_clicks, metrics_of


def label_metrics(
    spec: DatasetSpec,
    scores: Scores,
    models: Mapping[str, Mapping[str, Any]],
    predictions: Mapping[str, str],
    ranks_only: set[str],
) -> dict[str, Any]:
    """Compute the key `labels` of `metrics.json`.

    Args:
        spec: The dataset.
        scores: Predictions for the day.
        models: By model, its metrics for the main label as the report has them.
        predictions: By model, the name of its predictions in `scores`.
        ranks_only: Names of predictions that only order rows.

    Returns:
        `labels`: for each label, the main label first, `name`, `column`, `at_least`, `weight` (column of the sample
        weights, or null), `rows`, `clicks`, `label_rate`, and `models`: for each model that predicts it the metrics,
        `intervals`, and `weighted`, which holds AUC, log loss and calibration with the sample weights, and their `intervals`;
        null without weights. The result is empty if there is one label and no weights.
    """
    if not spec.labels and spec.label.weight is None:
        return {}
    every = []
    for number, rule in enumerate(spec.label_rules):
        own = scores if rule.name == MAIN else scores.of_label(number - 1)
        held = {model: name for model, name in predictions.items() if name in own.by}
        found: dict[str, dict[str, Any]]
        if rule.name == MAIN:
            found = {model: {key: models[model][key] for key in (*METRICS, "intervals")} for model in held}
        else:
            uncertainty = Uncertainty(own)
            found = {
                model: metrics_of(own.sums[name], own.aucs[name]) | {"intervals": uncertainty.intervals(name)}
                for model, name in held.items()
            }
        weighted = _weighted(own, ranks_only)
        for model, name in held.items():
            found[model]["weighted"] = weighted and weighted.values(name) | {"intervals": weighted.intervals(name)}
        about = {"name": rule.name, "column": rule.column, "at_least": rule.at_least, "weight": spec.label.weight}
        every.append(about | count_clicks(own.labels) | {"models": found})
    return {"labels": every}


def _weighted(scores: Scores, ranks_only: set[str]) -> Uncertainty | None:
    """Return metrics and their errors with sample weights. Rows of weight 0 do not count."""
    if scores.weights is None:
        return None
    counted = scores.rows(scores.weights > 0)
    return Uncertainty(counted, ranks_only, counted.weights)
