"""The report of a loop: one figure of the quality of all arms, and tables of quality, freshness and restarts, as HTML."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ml.evaluation.plots import over_days
from ml.loop.population import MICROSECONDS_PER_DAY
from ml.loop.quality import Improvement, Requests, curve, freshness, improvement, read_requests, recovery
from ml.loop.settings import ONLINE, Settings


def loop_metrics(settings: Settings, run: Path, restarts: Mapping[str, int]) -> dict[str, Any]:
    """Return the results of a loop as JSON values.

    Args:
        settings: The loop.
        run: Its folder, with `records`.
        restarts: How often each process was started again.
    """
    requests = {arm: read_requests(run / "records", arm) for arm in settings.arms}
    fresh = freshness(run / "records", settings)
    whole, apart = fresh.quantiles()
    of_arms = {arm: {"requests": len(of), "failed": of.failed, "quality": of.quality} for arm, of in requests.items()}
    if settings.change is not None:
        for arm, of in requests.items():
            of_arms[arm] |= asdict(recovery(of, settings))
    return {
        "settings": asdict(settings),
        "arms": of_arms,
        "any": _of_any(requests.values()),
        "days": [_of_day(settings, requests, number) for number in range(settings.days)],
        "freshness": {
            "impressions": len(fresh.seconds),
            "unreached": fresh.unreached,
            "waiting_seconds": fresh.waiting,
            "median": whole[0],
            "p90": whole[1],
            "median_apart_from_waiting": apart[0],
            "p90_apart_from_waiting": apart[1],
        },
        "restarts": dict(restarts),
    }


def _of_any(arms: Iterable[Requests]) -> float:
    """Quality of items at random, over the requests of all arms; NaN without requests."""
    sums = np.sum([(of.any.sum(), of.best.sum()) for of in arms], axis=0)
    return float(sums[0] / sums[1]) if sums[1] else float("nan")


def _of_day(settings: Settings, requests: Mapping[str, Requests], number: int) -> dict[str, Any]:
    """Quality of each arm on a day, and the improvement of the online arm over each other one."""
    first = settings.start + number * MICROSECONDS_PER_DAY
    day = {arm: of.between(first, first + MICROSECONDS_PER_DAY) for arm, of in requests.items()}
    over = {arm: improvement(day[ONLINE], of) for arm, of in day.items() if arm != ONLINE}
    return {
        "day": number + 1,
        "quality": {arm: of.quality for arm, of in day.items()},
        "improvement": {arm: None if found is None else asdict(found) for arm, found in over.items()},
    }


def quality_figure(settings: Settings, run: Path, any_quality: float) -> bytes:
    """Draw the quality of all arms over simulated time as PNG."""
    curves = {}
    for arm in settings.arms:
        found = curve(read_requests(run / "records", arm), settings)
        curves[arm] = ((found.time - settings.start) / MICROSECONDS_PER_DAY, found.quality)
    change = None if settings.change is None else (settings.change - settings.start) / MICROSECONDS_PER_DAY
    title = "Click probability of the recommended items (simulated users)"
    return over_days(title, "share of the best possible", curves, change, any_quality)


def write_report(settings: Settings, run: Path, restarts: Mapping[str, int]) -> list[str]:
    """Write `report.html`, `quality.png` and `metrics.json` into the folder of a loop.

    Args:
        settings: The loop.
        run: Its folder, with `records`.
        restarts: How often each process was started again.

    Returns:
        The main results as lines of text, and the path of the report.
    """
    metrics = loop_metrics(settings, run, restarts)
    figure = quality_figure(settings, run, metrics["any"])
    (run / "quality.png").write_bytes(figure)
    (run / "metrics.json").write_text(json.dumps(metrics, indent=1))
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)
    environment.filters["percent"] = _percent
    page = environment.get_template("report.html").render(m=metrics, figure=base64.b64encode(figure).decode())
    (run / "report.html").write_text(page)
    return [*result_lines(metrics), f"Report: {run / 'report.html'}"]


def result_lines(metrics: Mapping[str, Any]) -> list[str]:
    """Return the main results of a loop as lines of text."""
    lines = []
    if metrics["settings"]["change_hours"] is not None:
        for arm, of in metrics["arms"].items():
            back = "does not recover" if of["hours"] is None else f"recovers after {of['hours']:g} simulated hours"
            found = f"quality {of['before']:.3f} before the change, {of['after']:.3f} after it, {of['end']:.3f} at the end"
            lines.append(f"{arm:7} {found}; {back}")
    for day in metrics["days"]:
        qualities = ", ".join(f"{arm} {value:.3f}" for arm, value in day["quality"].items())
        better = "; ".join(f"online over {arm} {_percent(found)}" for arm, found in day["improvement"].items())
        lines.append(f"day {day['day']}: quality {qualities}" + (f"; {better}" if better else ""))
    failed, answered = (sum(of[which] for of in metrics["arms"].values()) for which in ("failed", "requests"))
    lines.append(f"{failed:,} of {failed + answered:,} requests failed, with {sum(metrics['restarts'].values())} restarts")
    fresh = metrics["freshness"]
    lines.append(
        f"from event to served weights: median {fresh['median']:.1f} s, "
        f"{fresh['median_apart_from_waiting']:.1f} s apart from waiting for clicks ({fresh['waiting_seconds']:.1f} s); "
        f"{fresh['unreached']:,} of {fresh['impressions'] + fresh['unreached']:,} impressions have not reached them"
    )
    return lines


def _percent(found: Mapping[str, Any] | Improvement | None) -> str:
    """Format an improvement with its interval."""
    if found is None:
        return "–"
    of = asdict(found) if isinstance(found, Improvement) else found
    interval = of["interval"]
    return f"{of['percent']:+.1f} %" + ("" if interval is None else f" ({interval[0]:+.1f} to {interval[1]:+.1f})")
