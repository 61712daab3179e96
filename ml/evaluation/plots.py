"""Plots of the report as PNG bytes: ROC, calibration, scores, AUC by day. `ml.metrics` computes the numbers.

The plots use Matplotlib's objects on the Agg canvas, without pyplot, so there is no global state and equal numbers give equal
bytes.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ml.metrics import ClickSums

COLOURS = {
    "model": "#2563eb",
    "logistic_regression": "#d97706",
    "constant_prior": "#94a3b8",
    "oracle": "#059669",
}
NAMES = {
    "model": "model",
    "logistic_regression": "logistic regression",
    "constant_prior": "constant prior",
    "oracle": "best possible",
}
RATES = (1e-6, 1e-5, 1e-4, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.98, 0.999)  # ticks
WORDS = {"positive": "clicked", "negative": "unclicked", "noun": "click"}
INK, FAINT = "#334155", "#e2e8f0"
DOTS_PER_INCH = 120


def roc(scored: dict[str, ClickSums]) -> bytes:
    """Draw a ROC curve for each name, in the order of the keys."""
    figure, axes = _axes("ROC", "false positive rate", "true positive rate")
    for name, sums in scored.items():
        false, true = sums.roc()
        if len(false):
            axes.plot(false, true, color=COLOURS[name], label=NAMES[name], lw=2.2 if name == "model" else 1.5)
    axes.set(xlim=(0, 1), ylim=(0, 1.005), aspect="equal")
    return _png(figure, axes, "lower right")


def calibration(scored: dict[str, ClickSums], words: Mapping[str, str] = WORDS) -> bytes:
    """Draw the observed against the predicted click rate on log axes, in bins of equal size, with two standard errors.

    A bin without clicks has no place on a log axis and is not drawn.
    """
    figure, axes = _axes("Calibration", f"predicted {words['noun']} rate", f"observed {words['noun']} rate")
    ends: list[float] = []
    for name, sums in scored.items():
        bins = [b for b in sums.calibration_bins() if b.predicted > 0 and b.observed > 0]
        if bins:
            x, y = np.array([b.predicted for b in bins]), np.array([b.observed for b in bins])
            reach = np.array([2 * b.error for b in bins])
            error = np.stack([np.minimum(reach, 0.9 * y), reach])
            axes.errorbar(x, y, error, color=COLOURS[name], label=NAMES[name], lw=1.6, elinewidth=1, marker="o", ms=4)
            ends += [*x, *y]
    if ends:
        low, high = min(ends) / 1.6, min(1.0, max(ends) * 1.6)
        axes.plot([low, high], [low, high], color=INK, lw=1, ls=(0, (4, 3)), label="perfect", zorder=1)
        axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), aspect="equal")
        ticks = [rate for rate in RATES if low <= rate <= high]
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks(ticks, [f"{100 * rate:g} %" for rate in ticks])
            axis.set_ticks([], minor=True)
    return _png(figure, axes, "upper left")


def scores(model: ClickSums, words: Mapping[str, str] = WORDS) -> bytes:
    """Draw the distributions of the model's scores for clicked and for unclicked rows."""
    figure, axes = _axes("Scores", f"predicted {words['noun']} rate", "share of rows")
    edges, unclicked, clicked = model.histogram(128)
    used = np.flatnonzero(unclicked + clicked)
    for counts, name, colour in ((unclicked, words["negative"], "#94a3b8"), (clicked, words["positive"], COLOURS["model"])):
        if counts.sum():
            axes.stairs(counts / counts.sum(), edges, fill=True, color=colour, alpha=0.55, label=name)
            axes.stairs(counts / counts.sum(), edges, color=colour, lw=1.4)
    if len(used):
        low, high = float(edges[used[0]]), float(edges[used[-1] + 1])
        ticks = [rate for rate in RATES if low <= np.log(rate / (1 - rate)) <= high]
        every = max(1, -(-len(ticks) // 7))
        axes.set_xticks(
            [np.log(rate / (1 - rate)) for rate in ticks[::every]], [f"{100 * rate:g} %" for rate in ticks[::every]]
        )
        axes.set_xlim(low, high)
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g} %")
    axes.set_ylim(bottom=0)
    return _png(figure, axes, "upper right")


def auc_by_day(days: Sequence[dict[str, Any]]) -> bytes:
    """Draw the AUC of each reported day.

    Args:
        days: Entries of the history, with `day` and, by name, an AUC or None.
    """
    figure, axes = _axes("AUC by day", "", "AUC")
    place = range(len(days))
    for name in ("oracle", "model", "logistic_regression"):
        values = [np.nan if row[name] is None else row[name] for row in days]
        if not np.isnan(values).all():
            axes.plot(
                place, values, color=COLOURS[name], label=NAMES[name], marker="o", ms=4, lw=2.2 if name == "model" else 1.5
            )
    every = max(1, -(-len(days) // 7))
    axes.set_xticks(list(place)[::-1][::every], [row["day"][5:] for row in days][::-1][::every])
    axes.margins(x=0.06, y=0.18)
    return _png(figure, axes, "best")


def online_day(slices: Sequence[Mapping[str, Any]], metric: str = "auc") -> bytes:
    """Draw a metric of each slice of a day, of the serving model and of the other systems that predicted or ranked the slice.

    Args:
        slices: Rows of `slices.parquet`, with columns such as `online_auc`; None where undefined.
        metric: `auc` or `recall@20`.
    """
    title = metric.replace("auc", "AUC")
    figure, axes = _axes(f"{title} by slice", "slice of the day", title)
    place = [row["slice"] + 1 for row in slices]
    colours = {"popularity": "#16a34a", "stale": "#94a3b8", "retrained": "#d97706", "online": COLOURS["model"]}
    for name, colour in colours.items():
        values = [np.nan if (of := row.get(f"{name}_{metric}")) is None else of for row in slices]
        if not np.isnan(values).all():
            axes.plot(place, values, color=colour, label=name, lw=2.2 if name == "online" else 1.5, marker="o", ms=2.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.03, y=0.18)
    return _png(figure, axes, "best")


def lines(title: str, x: str, y: str, curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> bytes:
    """Draw curves over steps, counted from 1. A curve is its means and its spreads, which are drawn as a band."""
    figure, axes = _axes(title, x, y)
    for (name, (mean, spread)), colour in zip(curves.items(), COLOURS.values(), strict=False):
        steps, middle, around = np.arange(1, len(mean) + 1), np.array(mean), np.array(spread)
        axes.plot(steps, middle, color=colour, label=name, lw=2)
        axes.fill_between(steps, middle - around, middle + around, color=colour, alpha=0.2, lw=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _png(figure, axes, "best")


def over_days(
    title: str, y: str, curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], change: float | None, floor: float
) -> bytes:
    """Draw curves over days, counted from 0.

    Args:
        title: Title of the figure.
        y: Title of the y axis.
        curves: Days and values of each curve, by name.
        change: Day of an event that all curves share, as a line; None for none.
        floor: A value that is reached without any model, as a line.
    """
    figure, axes = _axes(title, "days", y, width=8.2)
    for (name, (days, values)), colour in zip(curves.items(), COLOURS.values(), strict=False):
        axes.plot(days, values, color=colour, label=name, lw=1.8)
    axes.axhline(floor, color=INK, lw=1, ls=(0, (1, 2)), label="items at random")
    if change is not None:
        axes.axvline(change, color=INK, lw=1, ls=(0, (4, 3)), label="tastes change")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(0, 1)
    axes.margins(x=0.01)
    return _png(figure, axes, "lower left")


def points(title: str, x: str, y: str, groups: Mapping[str, Sequence[tuple[float, float, str]]]) -> bytes:
    """Draw the points (x, y, label) of each group, connected in order."""
    figure, axes = _axes(title, x, y)
    for (name, placed), colour in zip(groups.items(), COLOURS.values(), strict=False):
        axes.plot([p[0] for p in placed], [p[1] for p in placed], color=colour, label=name, marker="o", ms=4, lw=1.5)
        for across, up, what in placed:
            axes.annotate(what, (across, up), xytext=(4, 4), textcoords="offset points", fontsize=8, color=INK)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.margins(0.1)
    return _png(figure, axes, "best")


def trade_off(
    title: str, x: str, y: str, groups: Mapping[str, Sequence[tuple[float, float]]], baseline: tuple[str, float]
) -> bytes:
    """Draw the points (x, y) of each group, connected in order, on a logarithmic x axis, and a baseline's y as a line.

    Colours repeat for more groups than colours, with another marker.
    """
    figure, axes = _axes(title, x, y, width=8.2)
    colours, markers = (*COLOURS.values(), "#7c3aed", "#dc2626"), "osv^Dx"
    axes.axhline(baseline[1], color=INK, lw=1.2, ls=(0, (4, 3)), label=baseline[0])
    for number, (name, placed) in enumerate(groups.items()):
        colour, marker = colours[number % len(colours)], markers[number // len(colours) % len(markers)]
        axes.plot([p[0] for p in placed], [p[1] for p in placed], color=colour, label=name, marker=marker, ms=4, lw=1.1)
    _log_x(axes)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7, frameon=False, labelcolor=INK)
    return _save(figure)


def scatter(
    title: str, x: str, y: str, groups: Mapping[str, Sequence[tuple[float, float]]], limits: tuple[float, float]
) -> bytes:
    """Draw the points (x, y) of each group, and limits of x and y as lines. The x axis is logarithmic."""
    figure, axes = _axes(title, x, y)
    for (name, placed), colour, marker in zip(groups.items(), COLOURS.values(), "os^D", strict=False):
        axes.scatter([p[0] for p in placed], [p[1] for p in placed], s=18, color=colour, marker=marker, label=name, alpha=0.8)
    axes.axvline(limits[0], color=INK, lw=1, ls=(0, (4, 3)))
    axes.axhline(limits[1], color=INK, lw=1, ls=(0, (4, 3)))
    _log_x(axes)
    return _png(figure, axes, "lower left")


def _log_x(axes: Axes) -> None:
    """Make the x axis logarithmic, with plain numbers at its ticks."""
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}")
    axes.tick_params(which="both", labelsize=8, length=0)


def _axes(title: str, x: str, y: str, width: float = 4.7) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, 4.0), dpi=DOTS_PER_INCH, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
    axes.set_xlabel(x, fontsize=9, color=INK)
    axes.set_ylabel(y, fontsize=9, color=INK)
    axes.tick_params(colors=INK, labelsize=8, length=0)
    axes.grid(color=FAINT, lw=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(FAINT)
    return figure, axes


def _png(
    figure: Figure, axes: Axes, legend: Literal["best", "upper left", "upper right", "lower left", "lower right"]
) -> bytes:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc=legend, fontsize=8, frameon=False, labelcolor=INK)
    else:
        axes.text(0.5, 0.5, "nothing to draw", transform=axes.transAxes, ha="center", color=INK)
    return _save(figure)


def _save(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()
