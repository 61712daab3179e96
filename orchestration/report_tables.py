"""Tables of reports for the terminal: metrics by day, and rankings of all live items."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from ml.catalog.spec import DatasetSpec
from ml.evaluation.ranking.verdict import source_title

WIDTH = 80
"""Columns of the terminal that a table of rankings must fit."""


def metrics_table(spec: DatasetSpec, metrics: Mapping[str, Mapping[str, Any]]) -> Table:
    """Build a table with one row per day: metrics of the model, which had not seen the day, and of the baselines."""
    table = _table(f"{spec.name}: yesterday's model on a day it has not seen" + (" (simulated)" if spec.simulation else ""))
    best = ("best",) if spec.oracle else ()
    for column in ("day", "rows", "AUC", "log loss", "NE", "pred/obs", "LR AUC", *best):
        table.add_column(column, justify="right", no_wrap=True)
    for day, found in metrics.items():
        model, regression = found.get("model") or {}, (found.get("baselines") or {}).get("logistic_regression") or {}
        oracle = found.get("oracle") or {}
        cells = [model.get("auc"), model.get("log_loss"), model.get("normalised_entropy"), model.get("calibration")]
        cells += [regression.get("auc")] + ([oracle.get("auc")] if spec.oracle else [])
        table.add_row(day, f"{found['data']['rows']:,}", *map(_number, cells))
    return table


def label_tables(spec: DatasetSpec, metrics: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    """Build a table for each further label, with one row per day: metrics of the first model that predicts it."""
    tables = []
    for number, name in enumerate(spec.labels, 1):
        table = _table(f"{spec.name}: the label {name}")
        for column in ("day", "positive", "AUC", "log loss", "NE", "pred/obs"):
            table.add_column(column, justify="right", no_wrap=True)
        for day, found in metrics.items():
            label = found["labels"][number] if "labels" in found else {"clicks": None, "models": {}}  # an older report
            model = next(iter(label["models"].values()), {})
            cells = [model.get(metric) for metric in ("auc", "log_loss", "normalised_entropy", "calibration")]
            table.add_row(day, "–" if label["clicks"] is None else f"{label['clicks']:,}", *map(_number, cells))
        tables.append(table)
    return tables


def blank_metrics(metrics: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return why days with rows and a model lack metrics in `metrics_table`, one line for each reason."""
    reasons: dict[str, list[str]] = {}
    for day, found in metrics.items():
        rows, regression = found["data"]["rows"], (found.get("baselines") or {}).get("logistic_regression") or {}
        if not rows or (found.get("model") or {}).get("log_loss") is None:
            continue  # the row itself shows that there are no rows, or that no earlier day has a model
        if found["data"]["clicks"] in (0, rows):
            reasons.setdefault("No AUC: all rows of the day have the same label", []).append(day)
        elif regression.get("auc") is None:
            facts = regression.get("facts") or {}
            earlier = facts.get("days") or []
            window = f" ({earlier[0]} to {earlier[-1]})" if earlier else ""
            reasons.setdefault(f"No LR: {facts.get('reason', 'it was not fitted')}{window}", []).append(day)
    return [f"{', '.join(days)}: {reason}." for reason, days in reasons.items()]


def ranking_tables(spec: DatasetSpec, metrics: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    """Build tables of recall@20 by day, model and source: as many as are needed for a terminal of `WIDTH` columns.

    Returns:
        The tables, in the order of models and sources; none if no report ranks items.
    """
    rankings = {day: found["ranking"] for day, found in metrics.items() if found.get("ranking")}
    names = dict.fromkeys(name for kind in ("models", "sources") for of in rankings.values() for name in of[kind])
    tables: list[Table] = []
    shown: list[str] = []
    wide = Console(width=10 * WIDTH)
    for name in names:
        larger = _ranking_table(spec, rankings, [*shown, name])
        if shown and Measurement.get(wide, wide.options, larger).maximum > WIDTH:
            shown = []
            larger = _ranking_table(spec, rankings, [name])
        tables[len(tables) - bool(shown) :] = [larger]
        shown.append(name)
    return tables


def _ranking_table(spec: DatasetSpec, rankings: Mapping[str, Mapping[str, Any]], names: list[str]) -> Table:
    table = _table(f"{spec.name}: recall@20 of the clicked item among all live items")
    sources = {name for of in rankings.values() for name in of["sources"]}
    for column in ("day", "clicks"):
        table.add_column(column, justify="right", no_wrap=True)
    for column in (source_title(name) if name in sources else name for name in names):
        table.add_column(column, justify="right", width=max(map(len, [*column.split(), _number(0.0)])))
    for day, of in rankings.items():
        systems = {**of["models"], **of["sources"]}
        cells = [systems.get(name, {}).get("recall@20") for name in names]
        table.add_row(day, f"{of['requests']:,}", *map(_number, cells))
    return table


def recent_line(spec: DatasetSpec, metrics: Mapping[str, Any]) -> str | None:
    """Return the means of the primary model over the last days of a report, with their standard errors."""
    recent = metrics.get("recent") or {"days": [], "systems": {}}
    found = recent["systems"].get(spec.primary, {})
    parts = [
        f"{metric.replace('auc', 'AUC').replace('_', ' ')} {of['mean']:.4f} ± {of['standard_error']:.4f}"
        for metric, of in found.items()
        if of["standard_error"] is not None
    ]
    return f"Mean of the last {len(recent['days'])} days: {', '.join(parts)}." if parts else None


def _table(title: str) -> Table:
    return Table(box=SIMPLE_HEAD, pad_edge=False, title=title)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
