"""Reads metrics, and values of metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ml.tuning.definition import Metric
from ml.tuning.errors import invalid
from ml.tuning.values import Reader, as_text

MAX_NAME, MAX_METRICS, MAX_OPTIMIZED, MAX_CONSTRAINTS = 100, 50, 2, 4


def metrics(reader: Reader) -> tuple[Metric, ...]:
    """Return the metrics of an experiment, in the order of their names.

    Without metrics, an experiment has one metric with an empty name.
    """
    items = reader.items("metrics")
    if not reader.has("metrics"):
        return (Metric(""),)
    if not items:
        raise reader.error("metrics", "must contain a metric")
    if len(items) > MAX_METRICS:
        raise reader.error("metrics", f"can have at most {MAX_METRICS} metrics, but has {len(items)}")
    parsed = [_metric(item, path, alone=len(items) == 1) for path, item in items]
    names = [metric.name for metric in parsed]
    optimized = [metric for metric in parsed if metric.strategy == "optimize"]
    constraints = [metric for metric in parsed if metric.strategy == "constraint"]
    for (path, _), metric in zip(items, parsed, strict=True):
        if names.count(metric.name) > 1:
            raise invalid(f"{path}.name", f"duplicate metric name {metric.name}")
        check_threshold(metric, path, optimized=len(optimized))
    if len(optimized) > MAX_OPTIMIZED:
        raise reader.error("metrics", f"can have at most {MAX_OPTIMIZED} optimized metrics, but has {len(optimized)}")
    if len(constraints) > MAX_CONSTRAINTS:
        raise reader.error("metrics", f"can have at most {MAX_CONSTRAINTS} constraint metrics, but has {len(constraints)}")
    if not optimized and not constraints:
        raise reader.error("metrics", "must have optimized or constraint metrics")
    return tuple(sorted(parsed, key=lambda metric: metric.name))


def stored_metrics(rendered: Sequence[Mapping[str, Any]]) -> tuple[Metric, ...]:
    """Return metrics that `ml.tuning.render` has rendered."""
    return tuple(Metric(one["name"] or "", one["objective"], one["strategy"], one["threshold"]) for one in rendered)


def check_threshold(metric: Metric, path: str, *, optimized: int) -> None:
    """Refuse a threshold that has no meaning, and a constraint without one."""
    if metric.strategy == "constraint" and metric.threshold is None:
        raise invalid(f"{path}.threshold", "is required for constraint metrics")
    if metric.threshold is None:
        return
    if metric.strategy == "store":
        raise invalid(f"{path}.threshold", "cannot be specified on stored metrics")
    if metric.strategy == "optimize" and optimized == 1:
        raise invalid(
            f"{path}.threshold",
            "Thresholds are only supported for experiments with more than one optimized metric."
            " Try an All-Constraint experiment instead by setting `strategy` to `constraint`.",
        )


def updated(reader: Reader, current: Sequence[Metric]) -> tuple[Metric, ...]:
    """Return the metrics of an experiment after an update, which can only change thresholds."""
    by_name = {metric.name: metric for metric in current}
    optimized = sum(metric.strategy == "optimize" for metric in current)
    changed: dict[str, Metric] = {}
    for path, item in reader.items("metrics", required=True):
        entry = Reader({"name": item} if isinstance(item, str) else item, path)
        entry.ignore("object")
        name = _name(entry, alone=len(current) == 1)
        if name not in by_name or name in changed:
            raise entry.error("name", f"must name each metric once: {', '.join(by_name)}")
        metric = by_name[name]
        for key, value in (("objective", metric.objective), ("strategy", metric.strategy)):
            if entry.present(key) and entry.raw(key) != value:
                raise entry.error(key, f"cannot be changed; it is {value}")
        threshold = entry.optional_number("threshold")
        if metric.strategy == "constraint" and threshold is None:
            raise entry.error("threshold", "is required for constraint metrics")
        changed[name] = replace(metric, threshold=threshold if entry.present("threshold") else metric.threshold)
        entry.close()
        check_threshold(changed[name], path, optimized=optimized)
    if set(changed) != set(by_name):
        raise reader.error("metrics", f"cannot be added or removed; expected {', '.join(by_name)}")
    return tuple(changed[metric.name] for metric in current)


def values(reader: Reader, metrics: Sequence[Metric], *, key: str = "values") -> dict[str, dict[str, float]]:
    """Return measured values by metric, each with `value` and, if it was given, `value_stddev`.

    Args:
        reader: The observation.
        metrics: The metrics of the experiment, all of which must have a value.
        key: Key of the list of values.
    """
    names = {metric.name for metric in metrics}
    found: dict[str, dict[str, float]] = {}
    for path, item in reader.items(key, required=True):
        entry = Reader(item, path)
        entry.ignore("object")
        unnamed = len(metrics) == 1 and entry.raw("name") in (None, "")
        name = metrics[0].name if unnamed else _name(entry, alone=False)
        if name not in names:
            raise entry.error("name", f"there is no metric {name}; expected {', '.join(sorted(names))}")
        if name in found:
            raise entry.error("name", f"{name} occurs twice")
        found[name] = measured(entry)
        entry.close()
    lacking = sorted(names - set(found))
    if lacking:
        raise reader.error(key, f"lacks the metric {lacking[0]}" if lacking[0] else "is empty")
    return found


def any_values(reader: Reader) -> dict[str, dict[str, float]]:
    """Return measured values as `values` does, of any metrics, also of those that the experiment does not have."""
    found: dict[str, dict[str, float]] = {}
    for path, item in reader.items("values", required=True):
        entry = Reader(item, path)
        entry.ignore("object")
        name = entry.text("name", limit=MAX_NAME)
        if name in found:
            raise entry.error("name", f"{name} occurs twice")
        found[name] = measured(entry)
        entry.close()
    return found


def measured(entry: Reader) -> dict[str, float]:
    """Return the keys `value` and `value_stddev` of a measurement."""
    value, deviation = float(entry.number("value")), entry.optional_number("value_stddev")
    if deviation is None:
        return {"value": value}
    if deviation < 0:
        raise entry.error("value_stddev", "must not be negative")
    return {"value": value, "value_stddev": float(deviation)}


def _metric(item: Any, path: str, *, alone: bool) -> Metric:
    reader = Reader({"name": item} if isinstance(item, str) else item, path)
    reader.ignore("object")
    metric = Metric(
        _name(reader, alone=alone),
        reader.optional_text("objective", choices=("maximize", "minimize")) or "maximize",  # type: ignore[arg-type]
        reader.optional_text("strategy", choices=("optimize", "store", "constraint")) or "optimize",  # type: ignore[arg-type]
        reader.optional_number("threshold"),
    )
    reader.close()
    return metric


def _name(reader: Reader, *, alone: bool) -> str:
    """Return a metric's name; the only metric of an experiment needs none."""
    if alone and not reader.has("name"):
        reader.ignore("name")
        return ""
    return as_text(reader.raw("name", required=True), reader.path("name"), limit=MAX_NAME)


def by_name(values: Mapping[str, Mapping[str, float]], key: str) -> dict[str, float]:
    """Return one of the keys `value` and `value_stddev` of measured values, where it exists."""
    return {name: measurement[key] for name, measurement in values.items() if key in measurement}
