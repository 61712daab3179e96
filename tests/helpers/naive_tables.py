"""Values of feature tables by loops over all events, as slow and plain as their definition."""

from __future__ import annotations

from typing import Any

import pytest

from ml.catalog.feature_tables import CovisitationValue, FeatureTable
from ml.schema import EVENT_TIME

Row = dict[str, Any]


def naive_values(table: FeatureTable, events: list[Row], row: Row, at: int) -> dict[str, Any]:
    """Compute the values of the entity of a row as of an instant; `events` are in time order."""
    where = table.where
    events = [e for e in events if where is None or (e[where.column] is not None and e[where.column] == where.equals)]
    entity = [row[name] for name in table.entity]
    mine = [e for e in events if None not in entity and [e[name] for name in table.entity] == entity]
    after = round((table.known_after_minutes or 0) * 60e6)

    def seen(of: list[Row], hours: float) -> list[Row]:
        return [e for e in of if at - round(hours * 3600e6) <= e[EVENT_TIME] < at and e[EVENT_TIME] + after <= at]

    found: dict[str, Any] = {}
    for value in table.values:
        window = seen(mine, value.hours)
        if value.count:
            found[value.name] = len(window)
        elif value.rate:
            numbers = [float(e[value.rate.column]) for e in window if e[value.rate.column] is not None]
            if (edge := value.rate.at_least) is not None:
                numbers = [float(number >= edge) for number in numbers]
            rate = value.rate
            found[value.name] = (sum(numbers) + rate.prior * rate.strength) / (len(numbers) + rate.strength)
        elif value.recency:
            found[value.name] = (at - window[-1][EVENT_TIME]) / 1e6 if window else None
        elif value.last:
            held = [e[value.last.column] for e in window if e[value.last.column] is not None]
            found[value.name] = held[::-1][: value.last.most]
        elif value.covisitation:
            found[value.name] = _covisitation(value.covisitation, table.entity[0], events, row, at, after)
    return found


def assert_same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Values of rows are equal, floats up to rounding."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert one[name] == (pytest.approx(other[name], rel=1e-12) if isinstance(other[name], float) else other[name]), name


def _covisitation(value: CovisitationValue, item: str, events: list[Row], row: Row, at: int, after: int) -> float | None:
    span = round(value.hours * 3600e6)

    def context(session: Any, instant: int, known: int) -> set[Any]:
        inside = [
            e[item]
            for e in events
            if e[value.session] == session is not None
            and e[item] is not None
            and instant - span <= e[EVENT_TIME] < instant
            and e[EVENT_TIME] + known <= instant
        ]
        return set(inside[-value.context :])

    if row[item] is None:
        return None
    pairs: dict[Any, int] = {}
    for e in events:
        if e[item] is not None and at - span <= e[EVENT_TIME] < at and e[EVENT_TIME] + after <= at:
            for other in context(e[value.session], e[EVENT_TIME], 0) - {e[item]}:
                for key in (other, e[item], frozenset((other, e[item]))):
                    pairs[key] = pairs.get(key, 0) + 1
    of_row = context(row[value.session], at, after)
    shares = [
        pairs.get(frozenset((a, row[item])), 0) / (pairs.get(a, 0) + value.strength) if a != row[item] else 0.0 for a in of_row
    ]
    return sum(shares) / len(shares) if shares else None
