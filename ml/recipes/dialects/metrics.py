"""Reads the metrics of another tool's file."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import ValidationError

from ml.recipes.dialects.choices import Choices
from ml.recipes.dialects.known import METRICS
from ml.recipes.dialects.numbers import as_number
from ml.recipes.dialects.report import Report
from ml.recipes.search import MetricName, SearchMetric

_NAMES = get_args(MetricName)


def read_metrics(items: Any, choices: Choices, report: Report) -> list[SearchMetric]:
    """Returns the metrics of a file.

    Args:
        items: The list of metrics.
        choices: What the user decides.
        report: Receives faults and notes.
    """
    if not isinstance(items, list) or not items:
        report.fault(["metrics"], "expected a list of metrics")
        return []
    found: list[SearchMetric] = []
    for index, item in enumerate(items):
        at, data = ["metrics", index], {"name": item} if isinstance(item, str) else item
        name = data.get("name") if isinstance(data, dict) else None
        if not isinstance(name, str):
            report.fault(at, "expected keys with values, one of them `name`")
        elif name in choices.skip:
            report.note(at, f"{name} is left out")
        elif (metric := _metric(at, name, data, choices, report)) is not None:
            if metric.name in [one.name for one in found]:
                report.fault(at, f"{name}: the metric {metric.name} is given twice")
            found.append(metric)
    return found


def _metric(at: list[str | int], name: str, item: dict[str, Any], choices: Choices, report: Report) -> SearchMetric | None:
    stated = choices.metrics.get(name)
    ours = stated or METRICS.get(name.lower(), name.lower())
    if ours not in _NAMES:
        report.fault(at, f"{name}: no such metric; the metrics are {', '.join(_NAMES)}. Map it with --metric {name}=auc")
        return None
    if ours != name:
        report.note(at, f"{name} is read as {ours}")
    data = {key: as_number(value) if key == "threshold" else value for key, value in item.items() if value is not None}
    data.pop("object", None)
    try:
        metric = SearchMetric.model_validate({**data, "name": ours})
    except ValidationError as error:
        report.invalid(at, error, f"{name}: ")
        return None
    if metric.threshold is not None and stated:
        report.note([*at, "threshold"], f"{name}: the threshold {metric.threshold:g} now applies to {ours}; check it")
    elif metric.threshold is not None and ours == "training_time":
        report.note([*at, "threshold"], f"{name}: {metric.threshold:g} CPU-seconds of the training loop on one core; check it")
    return metric
