"""Renders the report as one self-contained HTML file from the metrics and the plots."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ml.evaluation.plots import NAMES
from ml.evaluation.ranking.metrics import HEADLINE
from ml.evaluation.ranking.verdict import best_source, headline_model, source_title
from ml.evaluation.recent import METRICS, RANKING_METRICS
from ml.evaluation.uncertainty import JUDGED_FROM, too_few

NOTHING = "–"


def render(metrics: dict[str, Any], plots: dict[str, bytes]) -> str:
    """Render the report without external resources. Text from logs is escaped; undefined values are shown as dashes.

    Args:
        metrics: Content of `metrics.json`.
        plots: PNG bytes by name.

    Returns:
        The HTML.
    """
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    environment.filters |= {
        "number": number,
        "percent": percent,
        "count": count,
        "fact": fact,
        "interval": interval,
        "duration": duration,
        "source_title": source_title,
    }
    models = {f"model {name}": found for name, found in metrics["models"].items()} or {"model": metrics["model"]}
    scored = {**models, **metrics["baselines"], "oracle": metrics["oracle"]}
    titles = {name: f" ({title})" for title, name in metrics["standing"].items()} if metrics["standing"]["challenger"] else {}
    called = NAMES | {name: name.removeprefix("model ") + titles.get(name.removeprefix("model "), "") for name in models}
    images = {name: b64encode(png).decode() for name, png in plots.items()}
    return environment.get_template("report.html").render(
        f=metrics,
        scored=scored,
        names=called,
        images=images,
        few=metrics["data"]["rows"] > 0 and metrics["model"]["facts"] is not None and too_few(metrics),
        grouped=any(part["name"] == "known_user" for part in metrics["slices"]),
        judged_from=JUDGED_FROM,
        **_ranking(metrics),
    )


def _ranking(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return what the template needs to show rankings and means over days."""
    ranking, systems = metrics["ranking"], metrics["recent"]["systems"]
    ranked = {**ranking["models"], **ranking["sources"]} if ranking else {}
    return {
        "headline": headline_model(metrics),
        "best": best_source(ranking) if ranking else None,
        "ranked": ranked,
        "titles_of_ranked": {name: source_title(name) for name in ranking["sources"]} | {n: n for n in ranking["models"]}
        if ranking
        else {},
        "rankers": _by_recall(ranking["rankers"]) if ranking else {},
        "recent_metrics": [name for name in (*METRICS, *RANKING_METRICS) if any(name in of for of in systems.values())],
    }


def _by_recall(rankers: dict[str, Any] | None) -> dict[str, Any]:
    """Return the systems of a comparison of rankers, the highest recall first."""
    return dict(sorted((rankers or {"systems": {}})["systems"].items(), key=lambda of: -(of[1][HEADLINE] or 0.0)))


def number(value: float | None, digits: int = 4) -> str:
    """Format a number, or a dash for None."""
    return NOTHING if value is None else f"{value:.{digits}f}"


def percent(value: float | None, digits: int = 2) -> str:
    """Format a share as a percentage, or a dash for None."""
    return NOTHING if value is None else f"{100 * value:.{digits}f} %"


def interval(value: list[float] | None, digits: int = 4, lead: str = "") -> str:
    """Format an interval after `lead`, or nothing if it is unknown or a single value."""
    return "" if value is None or value[0] == value[1] else f"{lead}{value[0]:.{digits}f}–{value[1]:.{digits}f}"


def duration(seconds: float | None) -> str:
    """Format a duration in its largest unit, or a dash for None."""
    if seconds is None:
        return NOTHING
    for unit, width in (("d", 86_400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= width:
            return f"{seconds / width:.1f} {unit}"
    return f"{seconds:.3g} s"


def count(value: int | None) -> str:
    """Format an integer with thousands separators, or a dash for None."""
    return NOTHING if value is None else f"{value:,}"


def fact(value: Any) -> str:
    """Format one of the facts of a model or baseline."""
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(fact(part) for part in value)
    if isinstance(value, dict):
        return ", ".join(f"{name}: {fact(part)}" for name, part in value.items())
    return str(value)
