"""The series of a store for the feature tables of a catalog entry: events for each kind of entity.

A table has one series, the events of its entities. A co-visitation value has three more: the entities of each session, the
pairs of each two entities, and the pairs of each entity.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ml.catalog.feature_tables import CovisitationValue, FeatureTable
from ml.catalog.reading import ColumnType
from ml.catalog.spec import DatasetSpec
from ml.days import MICROSECONDS_PER_HOUR
from ml.features.online_store.environment import EXAMPLES
from ml.features.point_in_time.values import sampling_hours

FORMAT = 1
"""Version of the stored form. Increase it when chunks or keys change, so that older stores are rebuilt."""


@dataclass(frozen=True)
class SumColumn:
    """A column whose values are summed, or the share of values at or above a threshold."""

    column: str
    at_least: float | None = None


@dataclass(frozen=True)
class Series:
    """Events of one kind of entity.

    Attributes:
        number: Number of the series in keys.
        sums: Columns that are summed.
        values: Columns whose values are looked up.
        hours: Hours before a look-up whose events it needs.
    """

    number: int
    sums: tuple[SumColumn, ...] = ()
    values: tuple[str, ...] = ()
    hours: float = 0.0


@dataclass(frozen=True)
class CovisitationPlan:
    """The series of a co-visitation value.

    Attributes:
        value: The declaration.
        sessions: Entities of each session.
        pairs: Pairs of each two entities, in either order.
        totals: Pairs of each entity.
    """

    value: CovisitationValue
    sessions: Series
    pairs: Series
    totals: Series


@dataclass(frozen=True)
class TablePlan:
    """The series of a table.

    Attributes:
        table: The declaration.
        known_after: Microseconds after its event time at which an event is known.
        events: Events of the entities.
        sampling: Length of the window that negatives are sampled from, see `ml.features.point_in_time.values`.
        covisitation: The series of each co-visitation value, by its name.
    """

    table: FeatureTable
    known_after: int
    events: Series
    sampling: float | None = None
    covisitation: Mapping[str, CovisitationPlan] = field(default_factory=dict)

    @property
    def series(self) -> Iterator[Series]:
        """All series of the table."""
        yield self.events
        for plan in self.covisitation.values():
            yield from (plan.sessions, plan.pairs, plan.totals)


@dataclass(frozen=True)
class StorePlan:
    """The series of all tables of an entry.

    Attributes:
        tables: By name.
        types: Declared types of the columns that the tables read.
    """

    tables: Mapping[str, TablePlan]
    types: Mapping[str, ColumnType]

    @classmethod
    def of(cls, spec: DatasetSpec, stream: str = EXAMPLES) -> StorePlan:
        """Plan the series of a catalog entry's tables.

        Args:
            spec: The dataset.
            stream: `examples` for all tables; `impressions` for the tables that read no column that the joiner adds.
        """
        tables = [t for t in spec.feature_tables if stream == EXAMPLES or not set(t.columns) & set(spec.action_columns)]
        planned, number = {}, 0
        for table in tables:
            planned[table.name] = plan = _plan_table(table, spec, number)
            number += sum(1 for _ in plan.series)
        return cls(planned, {name: spec.column_types[name] for table in tables for name in table.columns})

    @property
    def series(self) -> list[Series]:
        """All series, by number."""
        return [series for plan in self.tables.values() for series in plan.series]

    @property
    def fingerprint(self) -> str:
        """Hash of everything that shapes the stored events. A store of another fingerprint must be rebuilt."""
        tables = [(plan.table.model_dump(mode="json"), plan.known_after) for plan in self.tables.values()]
        text = json.dumps([FORMAT, tables, dict(self.types)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plan_table(table: FeatureTable, spec: DatasetSpec, number: int) -> TablePlan:
    rates = [SumColumn(value.rate.column, value.rate.at_least) for value in table.values if value.rate]
    lists = [value.last.column for value in table.values if value.last]
    later = spec.known_after(table) / MICROSECONDS_PER_HOUR
    hours = max(value.hours for value in table.values) + later
    events = Series(number, tuple(dict.fromkeys(rates)), tuple(dict.fromkeys(lists)), hours)
    covisitation = {}
    for value in table.values:
        if value.covisitation:
            at = number + 1 + 3 * len(covisitation)
            hours = value.hours + later
            sessions = Series(at, (), (ENTITY,), hours)
            pairs, totals = (Series(at + 1 + i, (WEIGHT,), (), hours) for i in range(2))
            covisitation[value.name] = CovisitationPlan(value.covisitation, sessions, pairs, totals)
    return TablePlan(table, spec.known_after(table), events, sampling_hours(spec, table), covisitation)


ENTITY = "entity"
"""The column of a series of sessions: the key of the entity."""
WEIGHT = SumColumn("weight")
"""The column of a series of pairs: 1, or -1 where a late event replaces a pair by another one."""
