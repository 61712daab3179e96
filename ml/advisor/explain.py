"""Explains advice: each value with its reason and source, as Markdown for Dagster's pages and as tables for the terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

import yaml
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ml.advisor.advice import Advice, Advised, Suggestion
from ml.advisor.cost import Prediction

SIGNIFICANT = 4  # digits of a number


def to_markdown(advice: Advice) -> str:
    """Explain advice as Markdown.

    Args:
        advice: The advice.

    Returns:
        Tables of values, suggestions and predictions. Features whose tables have the same advice share a row.
    """
    lines = [f"### Recipe of {advice.model} for {advice.dataset}", "", _basis(advice), ""]
    lines += ["| key | advised | without advice | reason | rule | source |", "|---|---|---|---|---|---|"]
    for keys, value in together(advice.values):
        cells = (f"`{keys}`", f"`{shown(value.value)}`", f"`{shown(value.shipped)}`", value.reason, value.rule, value.source)
        lines.append(f"| {' | '.join(map(_cell, cells))} |")
    for title, rows in (
        ("Suggestions", [suggestion_line(each) for each in advice.suggestions]),
        ("Not applied", _kept(advice)),
        ("Prediction", _predicted(advice)),
    ):
        if rows:
            lines += ["", f"#### {title}", "", *(f"- {row}" for row in rows)]
    return "\n".join(lines) + "\n"


def to_terminal(advice: Advice) -> RenderableType:
    """Explain advice for a terminal of at least 80 columns.

    Args:
        advice: The advice.

    Returns:
        What `rich.console.Console.print` prints. Changed values come with a star.
    """
    table = Table(expand=False, padding=(0, 1), box=None, header_style="bold")
    table.add_column("key", overflow="fold", max_width=32)
    table.add_column("advised", overflow="fold", max_width=18)
    table.add_column("without", overflow="fold", max_width=18)
    for keys, value in together(advice.values):
        mark = "* " if value.changes else "  "
        table.add_row(Text(mark + keys, style="bold"), Text(shown(value.value)), Text(shown(value.shipped)))
    parts: list[RenderableType] = [
        Text(f"Recipe of {advice.model} for {advice.dataset}", style="bold"), Text(_basis(advice)), Text(), table, Text(),
        Text("Reasons", style="bold"),
    ]  # fmt: skip
    for rule, values in groupby(sorted(advice.values, key=_by_rule(advice)), key=lambda value: value.rule):
        own = list(values)
        for reason in dict.fromkeys(value.reason for value in own):
            of = ", ".join(keys for keys, _ in together([value for value in own if value.reason == reason]))
            parts += [Text(f"{rule}: {of}"), Padding(Text(reason), (0, 0, 0, 2))]
        parts += [Padding(Text(f"Source: {own[0].source}", style="dim"), (0, 0, 0, 2))]
    for title, rows in (
        ("Suggestions", [suggestion_line(each) for each in advice.suggestions]),
        ("Not applied", _kept(advice)),
        ("Prediction", _predicted(advice)),
    ):
        if rows:
            parts += [Text(), Text(title, style="bold"), *(Text(row.replace("`", "")) for row in rows)]
    return Group(*parts)


def shown(value: Any) -> str:
    """Format a recipe's value as YAML would.

    Example:
        >>> shown(0.0014142135), shown((128, 64)), shown(None), shown("adam")
        ('0.001414', '[128, 64]', 'none', 'adam')
    """
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:.{SIGNIFICANT}g}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(shown(item) for item in value)}]"
    return yaml.safe_dump(value).split("\n")[0]


def _basis(advice: Advice) -> str:
    if not advice.days:
        return "There is no profile of earlier days, so only rules that need none apply."
    days = advice.days[0] if len(advice.days) == 1 else f"{advice.days[0]} to {advice.days[-1]}"
    return f"From the profile of {days}."


def suggestion_line(suggestion: Suggestion) -> str:
    """Return a suggestion with its reason and source, as one line of Markdown."""
    return f"{suggestion.text}. {suggestion.reason} ({suggestion.rule}; {suggestion.source})".replace("..", ".")


def _kept(advice: Advice) -> list[str]:
    return [
        f"`{keys}` stays `{shown(value.shipped)}`, because the catalog entry or the running model sets it; {value.rule} "
        f"advises `{shown(value.value)}`."
        for keys, value in together(value for value in advice.kept if value.changes)
    ]


def _predicted(advice: Advice) -> list[str]:
    rows = [
        f"{name}: {_cost(cost)}" for name, cost in (("advised", advice.prediction), ("without advice", advice.before)) if cost
    ]
    return rows + list(advice.warnings)


def _cost(cost: Prediction) -> str:
    most = ", ".join(f"{name} {share:.0%}" for name, share in _largest(cost))
    return (
        f"{cost.seconds:,.3g} seconds of one core for a day, {cost.peak_bytes / 1e6:,.0f} MB at the peak, "
        f"{sum(cost.table_bytes.values()) / 1e6:,.3g} MB of tables ({most})"
    )


def _largest(cost: Prediction) -> list[tuple[str, float]]:
    return [(name, seconds / cost.seconds) for name, seconds in list(cost.terms.items())[:3] if cost.seconds]


def _by_rule(advice: Advice) -> Any:
    order = list(dict.fromkeys(value.rule for value in advice.values))
    return lambda value: order.index(value.rule)


def together(values: Iterable[Advised]) -> Iterator[tuple[str, Advised]]:
    """Yields keys and values. Tables of different features with the same value, rule and former value share one."""
    groups: dict[tuple[str, str, str, str], list[Advised]] = {}
    for value in values:
        groups.setdefault((_general(value.key), shown(value.value), shown(value.shipped), value.rule), []).append(value)
    for (general, *_), members in groups.items():
        names = [member.key.split(".")[2] for member in members] if "*" in general else []
        yield (general.replace("*", compact(names)) if names else members[0].key), members[0]


def _general(key: str) -> str:
    parts = key.split(".")
    return ".".join([*parts[:2], "*", *parts[3:]]) if key.startswith("tables.features.") else key


def compact(names: Iterable[str]) -> str:
    """Join names; consecutive numbers become a range.

    Example:
        >>> compact(["C1", "C2", "C3", "user"])
        '{C1..C3, user}'
        >>> compact(["user"])
        'user'
    """
    found: list[list[str]] = []
    for name in names:
        last = found[-1][-1] if found else ""
        if found and _next(last) == name:
            found[-1].append(name)
        else:
            found.append([name])
    parts = [run[0] if len(run) == 1 else f"{run[0]}..{run[-1]}" for run in found]
    return parts[0] if parts and len(parts) == 1 and ".." not in parts[0] else f"{{{', '.join(parts)}}}"


def _next(name: str) -> str | None:
    """Return a name with its number increased by one; None without a number."""
    match = re.search(r"\d+", name)
    return f"{name[: match.start()]}{int(match[0]) + 1}{name[match.end() :]}" if match else None


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
