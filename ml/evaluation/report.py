"""The report to read: one HTML file with everything in it, from the figures and the plots. Its words are `verdict`'s."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ml.evaluation.plots import NAMES

NOTHING = "–"


def render(figures: dict[str, Any], plots: dict[str, bytes]) -> str:
    """HTML without outside resources. Text from logs is escaped; what is undefined is shown as a dash."""
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    environment.filters |= {"number": number, "percent": percent, "count": count, "fact": fact}
    models = {f"model {name}": found for name, found in figures["models"].items()} or {"model": figures["model"]}
    scored = {**models, **figures["baselines"], "oracle": figures["oracle"]}
    titles = {name: f" ({title})" for title, name in figures["standing"].items()} if figures["standing"]["challenger"] else {}
    called = NAMES | {name: name.removeprefix("model ") + titles.get(name.removeprefix("model "), "") for name in models}
    images = {name: b64encode(png).decode() for name, png in plots.items()}
    return environment.get_template("report.html").render(f=figures, scored=scored, names=called, images=images)


def number(value: float | None, digits: int = 4) -> str:
    return NOTHING if value is None else f"{value:.{digits}f}"


def percent(value: float | None, digits: int = 2) -> str:
    return NOTHING if value is None else f"{100 * value:.{digits}f} %"


def count(value: int | None) -> str:
    return NOTHING if value is None else f"{value:,}"


def fact(value: Any) -> str:
    """A value of a model's or baseline's facts as a person would write it."""
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
