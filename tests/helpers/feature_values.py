"""Values of feature tables by a slow search of the log, written from their definitions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ml.catalog.spec import DatasetSpec, FeatureTable, FeatureValue
from ml.days import MICROSECONDS_PER_HOUR

Row = dict[str, Any]


@dataclass(frozen=True)
class Event:
    """A row of the log with its times: it counts for instants in `[known, until)`."""

    row: Row
    time: int
    known: int
    until: float

    def counts(self, at: int) -> bool:
        return self.known <= at < self.until


def events_of(spec: DatasetSpec, table: FeatureTable, log: list[Row]) -> list[Event]:
    """The events of a table.

    A row of the log has `event_time`, `arrived` if it came late, and `replaced_at` if its label was corrected.
    """
    delay, where = spec.known_after(table), table.where
    rows = [row for row in log if where is None or row[where.column] == where.equals]
    events = []
    for row in sorted(rows, key=lambda row: row["event_time"]):
        at, end = row["event_time"] + delay, row.get("replaced_at")
        events.append(Event(row, row["event_time"], max(at, row.get("arrived", 0)), math.inf if end is None else max(at, end)))
    return events


def slow_value(spec: DatasetSpec, table: FeatureTable, value: FeatureValue, row: Row, log: list[Row]) -> Any:
    """The value of a row; None if it is missing."""
    at, span = row["event_time"], round(value.hours * MICROSECONDS_PER_HOUR)
    entity = [row[column] for column in table.entity]
    known = [e for e in events_of(spec, table, log) if at - span <= e.time < at and e.counts(at)]
    mine = [e for e in known if None not in entity and [e.row[column] for column in table.entity] == entity]
    if value.count:
        return len(mine)
    if value.rate:
        seen = [e.row[value.rate.column] for e in mine if e.row[value.rate.column] is not None]
        seen = [float(x >= value.rate.at_least) if value.rate.at_least is not None else float(x) for x in seen]
        return (sum(seen) + value.rate.prior * value.rate.strength) / (len(seen) + value.rate.strength)
    if value.recency:
        return (at - mine[-1].time) / 1_000_000 if mine else None
    if value.last:
        seen = [e.row[value.last.column] for e in mine if e.row[value.last.column] is not None]
        return seen[::-1][: value.last.most]
    return slow_covisitation(spec, table, value, row, log)


def slow_covisitation(spec: DatasetSpec, table: FeatureTable, value: FeatureValue, row: Row, log: list[Row]) -> float | None:
    """The co-visitation of a row."""
    made = value.covisitation
    assert made is not None
    span, item = round(made.hours * MICROSECONDS_PER_HOUR), table.entity[0]
    events = [e for e in events_of(spec, table, log) if e.row[item] is not None and e.row[made.session] is not None]

    def context(session: Any, at: int, known: int) -> set[Any]:
        seen = [e for e in events if e.row[made.session] == session and at - span <= e.time < at and e.counts(known)]
        return {e.row[item] for e in seen[-made.context :]}

    pairs = []
    for event in events:
        others = context(event.row[made.session], event.time, event.known) - {event.row[item]}
        pairs += [(frozenset((a, event.row[item])), event) for a in others]
    at = row["event_time"]
    pairs = [(pair, e) for pair, e in pairs if at - span <= e.time < at and e.counts(at)]
    of_row = context(row[made.session], at, at) if row[made.session] is not None else set()
    if row[item] is None or not of_row:
        return None
    shares = [
        sum(pair == {a, row[item]} for pair, _ in pairs) / (sum(a in pair for pair, _ in pairs) + made.strength) for a in of_row
    ]
    return math.fsum(shares) / len(shares)
