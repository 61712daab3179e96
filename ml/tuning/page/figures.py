"""Figures of the page of an experiment, drawn with Bokeh: history, Pareto front, parallel coordinates, importances."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, Literal

import numpy as np
from bokeh.models import ColumnDataSource, FixedTicker, HoverTool, LinearColorMapper, Model, Span
from bokeh.palettes import Viridis256
from bokeh.plotting import figure

from ml.tuning.definition import Metric
from ml.tuning.engine.front import limited
from ml.tuning.engine.space import Dimension, SearchSpace
from ml.tuning.page.results import Results, Trial

COLOURS = {"best": "#059669", "feasible": "#2563eb", "infeasible": "#94a3b8"}
INK, FAINT, LIMIT = "#334155", "#e2e8f0", "#dc2626"
HEIGHT = 330
ABSENT = -0.12
"""Where a line crosses the axis of a parameter that its trial does not have."""


def figures(results: Results) -> dict[str, Model]:
    """Draw all figures for which there are results.

    Returns:
        The figures by title.
    """
    if not results.of(*COLOURS):
        return {}
    drawn: dict[str, Model] = {}
    optimized = results.experiment.optimized
    if len(optimized) == 2:
        drawn["Pareto front"] = _front(results, *optimized)
    for metric in optimized or results.experiment.metrics:
        drawn[f"History of {_name(metric)}"] = _history(results, metric)
    for metric, shares in results.importances.items():
        drawn[f"Importances for {metric or 'the metric'}"] = _importances(shares)
    drawn["Parallel coordinates"] = _parallel_coordinates(results)
    return drawn


def _history(results: Results, metric: Metric) -> Model:
    """Draw a metric by trial, the best feasible value so far, and the threshold."""
    plot = _plot("trial", _name(metric), [("trial", "@trial"), (_name(metric), "@y"), ("state", "@state")])
    for state in COLOURS:
        _scatter(
            plot, state, [(trial.number, trial.result.values[metric.name], trial) for trial in _with(results, metric, state)]
        )
    if metric.strategy == "optimize":
        allowed = sorted(_with(results, metric, "best", "feasible"), key=lambda trial: trial.number)
        better = max if metric.objective == "maximize" else min
        so_far = list(accumulate((trial.result.values[metric.name] for trial in allowed), better))
        if so_far:
            numbers = [*(trial.number for trial in allowed), len(results.trials)]
            plot.step(numbers, [*so_far, so_far[-1]], mode="after", color=INK, line_width=1.5, legend_label="best so far")
    _threshold(plot, metric, "width")
    return _finished(plot)


def _front(results: Results, first: Metric, second: Metric) -> Model:
    """Draw two metrics of all trials, their thresholds, and a line through the front."""
    plot = _plot(
        _name(first), _name(second), [("trial", "@trial"), (_name(first), "@x"), (_name(second), "@y"), ("state", "@state")]
    )
    for state in COLOURS:
        trials = [trial for trial in _with(results, first, state) if second.name in trial.result.values]
        points = [(trial.result.values[first.name], trial.result.values[second.name], trial) for trial in trials]
        _scatter(plot, state, points)
        if state == "best" and len(points) > 1:
            points.sort(key=lambda point: point[0])
            plot.line([x for x, _, _ in points], [y for _, y, _ in points], color=COLOURS["best"], line_width=1.5)
        for x, y, trial in points:
            if trial.knee:
                plot.scatter([x], [y], size=17, fill_color=None, line_color=INK, line_width=2, legend_label="knee")
    _threshold(plot, first, "height")
    _threshold(plot, second, "width")
    return _finished(plot)


def _importances(shares: Mapping[str, float]) -> Model:
    """Draw the share of each parameter, the greatest on top."""
    names = list(shares)[::-1]
    plot = _plot("share of the variance", "", [("parameter", "@y"), ("share", "@right{0.0 %}")], y_range=names)
    source = ColumnDataSource({"y": names, "right": [shares[name] for name in names]})
    plot.hbar(y="y", right="right", height=0.6, color=COLOURS["feasible"], source=source)
    plot.x_range.update(start=0)
    plot.ygrid.visible = False
    return plot


def _parallel_coordinates(results: Results) -> Model:
    """Draw a line for each trial through its parameters and metrics, coloured by the first metric; better is darker."""
    metrics = [metric for metric in results.experiment.metrics if any(metric.name in t.result.values for t in results.trials)]
    colour = next((metric for metric in metrics if metric.strategy == "optimize"), metrics[0])
    trials = _with(results, colour, *COLOURS)
    dimensions = SearchSpace(results.experiment.space).dimensions
    axes = [(d.name, [_position(d, t) for t in trials], _ends(d)) for d in dimensions if d.size > 1]
    for metric in metrics:
        values = np.array([trial.result.values.get(metric.name, math.nan) for trial in trials])
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        scaled = (values - low) / (high - low) if high > low else np.full(len(values), 0.5)
        axes.append((_name(metric), scaled.tolist(), [(0.0, _short(low)), (1.0, _short(high))]))
    axes = [(name, at, [*ends, (ABSENT, "none")] if ABSENT in at else ends) for name, at, ends in axes]
    places = list(range(len(axes)))
    scores = [trial.result.values[colour.name] * (1 if colour.objective == "maximize" else -1) for trial in trials]
    order = sorted(range(len(trials)), key=lambda n: scores[n])  # the best lines are drawn last, above the others
    source = ColumnDataSource(
        dict(
            xs=[places] * len(trials),
            ys=[[positions[n] for _, positions, _ in axes] for n in order],
            score=[scores[n] for n in order],
            value=[_short(trials[n].result.values[colour.name]) for n in order],
            trial=[trials[n].number for n in order],
            state=[trials[n].state for n in order],
        )
    )
    hints = [("trial", "@trial"), (_name(colour), "@value"), ("state", "@state")]
    plot = _plot("", "", hints, x_range=(-0.3, len(axes) - 0.5), y_range=(ABSENT - 0.08, 1.08))
    mapper = LinearColorMapper(palette=Viridis256[::-1], low=min(scores), high=max(scores))
    plot.multi_line(
        "xs", "ys", source=source, line_width=1.8, line_alpha=0.75, line_color={"field": "score", "transform": mapper}
    )
    for place, (_, _, ends) in zip(places, axes, strict=True):
        plot.add_layout(Span(location=place, dimension="height", line_color=INK, line_width=1))
        at, heights, texts = [place] * len(ends), [y for y, _ in ends], [text for _, text in ends]
        label = plot.text(at, heights, texts, x_offset=6, text_font_size="11px", text_color=INK, text_baseline="middle")
        label.glyph.update(background_fill_color="white", background_fill_alpha=0.9)
    plot.xaxis.ticker = FixedTicker(ticks=places)
    plot.xaxis.major_label_overrides = {place: name for place, (name, _, _) in zip(places, axes, strict=True)}
    plot.xaxis.major_label_orientation = 0.4 if len(axes) > 7 else 0
    plot.yaxis.visible = plot.ygrid.visible = plot.xgrid.visible = False
    return plot


def _position(dimension: Dimension, trial: Trial) -> float:
    """Return the position of a trial's value; `ABSENT` if its conditions are not met, or it is outside of the space."""
    value = trial.result.assignments.get(dimension.name)
    return dimension.position(value) if value is not None and dimension.contains(value) else ABSENT


def _ends(dimension: Dimension) -> list[tuple[float, str]]:
    """Return the positions and texts that an axis shows: all categories and values of a grid, else both bounds."""
    values = [dimension.low, dimension.high] if dimension.values is None else list(dimension.values)
    listed = values if dimension.categorical or (dimension.grid and len(values) <= 10) else [values[0], values[-1]]
    return [(dimension.position(value), _short(value)) for value in listed]


def _with(results: Results, metric: Metric, *states: str) -> list[Trial]:
    return [trial for trial in results.of(*states) if metric.name in trial.result.values]


def _name(metric: Metric) -> str:
    return metric.name or "metric"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _scatter(plot: figure, state: str, points: Sequence[tuple[float, float, Trial]]) -> None:
    if points:
        xs, ys, trials = zip(*points, strict=True)
        numbers = [trial.number for trial in trials]
        source = ColumnDataSource({"x": xs, "y": ys, "trial": numbers, "state": [state] * len(points)})
        plot.scatter("x", "y", source=source, size=8, color=COLOURS[state], alpha=0.85, legend_label=state)


def _threshold(plot: figure, metric: Metric, dimension: Literal["width", "height"]) -> None:
    """Draw the threshold of a metric, if it has one, as a line across the plot."""
    if metric.threshold is not None and limited([metric]):
        line = plot.hspan if dimension == "width" else plot.vspan
        line([metric.threshold], line_color=LIMIT, line_dash="dashed", line_width=1.5)


def _plot(x: str, y: str, hints: list[tuple[str, str]], **ranges: Any) -> figure:
    plot = figure(
        height=HEIGHT, sizing_mode="stretch_width", x_axis_label=x or None, y_axis_label=y or None, toolbar_location="right",
        tools="pan,wheel_zoom,box_zoom,reset,save", output_backend="canvas", **ranges,
    )  # fmt: skip
    plot.add_tools(HoverTool(tooltips=hints))
    plot.toolbar.logo = None
    plot.toolbar.autohide = True
    plot.outline_line_color = None
    plot.grid.grid_line_color = FAINT
    plot.axis.axis_line_color = plot.axis.major_tick_line_color = plot.axis.minor_tick_line_color = None
    plot.axis.major_label_text_color = plot.axis.axis_label_text_color = INK
    plot.axis.axis_label_text_font_style = "normal"
    return plot


def _finished(plot: figure) -> figure:
    """Place the legend above the plot, where it hides no point."""
    if plot.legend:
        (legend,) = plot.legend
        legend.update(orientation="horizontal", border_line_color=None, padding=0, label_text_color=INK)
        plot.add_layout(legend, "above")
    return plot
