"""Catalog keys of feature tables: values of an entity, such as an item or a user, computed from the log's events before a row.

Declarations only. `ml.features.point_in_time` computes the values for the daily features, and the online store for requests.

An event has two times: its event time, and the instant at which it is known. It counts for a row at instant T if
`T - hours <= event time < T` and it is known at T. So the row's own event, and other events at the same instant, never count.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from ml.catalog.reading import ColumnName, ColumnType
from ml.catalog.strict import Float, Int, Scalar, Strict, fault

# Files and keys of the online store are named after tables.
TableName = Annotated[str, StringConstraints(max_length=100, pattern=r"^[a-z][a-z0-9_]*$")]
Hours = Annotated[Float, Field(gt=0, le=2208)]

_WINDOW = "Length of the window before the row, at most 2208 (92 days)."


class CountValue(Strict):
    """The number of the entity's events in a window: an integer, 0 without events."""

    hours: Hours = Field(description=_WINDOW)


class RateValue(Strict):
    """The mean of a column over the entity's events in a window, smoothed towards a prior.

    The value is `(sum + prior * strength) / (n + strength)` over the n events whose column is not missing, and `prior` without
    such an event.
    """

    column: ColumnName = Field(description="Column of the log, a number, such as the label.")
    at_least: Float | None = Field(
        default=None, description="Replaces the column by 1 where it is at or above this, and by 0 elsewhere."
    )
    hours: Hours = Field(description=_WINDOW)
    prior: Float = Field(default=0.0, description="Value for an entity without events.")
    strength: Float = Field(default=20.0, gt=0, description="Number of events that the prior weighs as much as.")


class RecencyValue(Strict):
    """Seconds since the entity's last event in a window; missing without one."""

    hours: Hours = Field(description=_WINDOW)


class LastValue(Strict):
    """The values of a column in the entity's last events, newest first. A sparse feature reads them by `history: <name>`."""

    column: ColumnName = Field(description="Column of the log. Events in which it is missing do not count.")
    most: Int = Field(default=5, ge=1, le=100, description="Maximum number of values.")
    hours: Hours = Field(description=_WINDOW)


class CovisitationValue(Strict):
    """How often the entity occurs in the same sessions as the last entities of the row's session.

    The context of an event or a row is the set of entities of the last `context` events of its session in the window before it.
    Each event of entity b counts a pair (a, b), in both directions, for each other entity a of its context. With n(a) the
    number of pairs of a in the window before a row, the value for entity b is the mean of `n(a, b) / (n(a) + strength)` over
    the entities a of the row's context, where n(b, b) is 0. It is missing for an empty context.
    """

    session: ColumnName = Field(description="Column of the log that identifies the session, or the user.")
    context: Int = Field(default=5, ge=1, le=20, description="Number of the session's last events.")
    hours: Hours = Field(description=_WINDOW)
    strength: Float = Field(default=10.0, gt=0, description="Number of pairs by which a share is shrunk towards 0.")


class FeatureValue(Strict):
    """One value of a feature table: a count, rate, recency, list of last values, or co-visitation."""

    name: ColumnName = Field(description="Name of the value, which features use as a column.")
    count: CountValue | None = Field(default=None, description="The number of events.")
    rate: RateValue | None = Field(default=None, description="The smoothed mean of a column.")
    recency: RecencyValue | None = Field(default=None, description="Seconds since the last event.")
    last: LastValue | None = Field(default=None, description="A column's values in the last events.")
    covisitation: CovisitationValue | None = Field(
        default=None, description="Strength of the entity given the other entities of the row's session."
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(kind is not None for kind in self._kinds) != 1:
            raise fault("", "give one of count, rate, recency, last or covisitation")
        return self

    @property
    def _kinds(self) -> tuple[CountValue | RateValue | RecencyValue | LastValue | CovisitationValue | None, ...]:
        return self.count, self.rate, self.recency, self.last, self.covisitation

    @property
    def hours(self) -> float:
        """Length of the window in hours."""
        return next(kind.hours for kind in self._kinds if kind is not None)

    @property
    def column_type(self) -> ColumnType | None:
        """Type of the column that features read; None for `last`, whose value is a list."""
        return None if self.last else "int" if self.count else "float"


class EventFilter(Strict):
    """Which events of the log count."""

    column: ColumnName = Field(description="Column of the log.")
    equals: Scalar = Field(description="Value that the column has in the events that count.")


class FeatureTable(Strict):
    """Values of one kind of entity, as of each row's instant."""

    name: TableName = Field(description="Name of the table, such as `article`.")
    entity: tuple[ColumnName, ...] = Field(
        min_length=1,
        max_length=4,
        description="Columns of the log that identify the entity: one, or several for a cross. A row in which one is missing "
        "has no events.",
    )
    where: EventFilter | None = Field(default=None, description="Which events count; all of them by default.")
    known_after_minutes: Float | None = Field(
        default=None,
        ge=0,
        description="Minutes after its event time at which an event is known, such as the wait for a label. By default "
        "the longest wait of `actions` if the table reads a column that the joiner adds, and otherwise 0.",
    )
    values: tuple[FeatureValue, ...] = Field(min_length=1, description="Values to compute.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.entity)) < len(self.entity):
            raise fault("entity", f"expected distinct columns, found {list(self.entity)}")
        names = [value.name for value in self.values]
        if double := sorted({name for name in names if names.count(name) > 1}):
            raise fault("values", f"{double} are named more than once")
        for i, value in enumerate(self.values):
            if value.covisitation and len(self.entity) > 1:
                raise fault(f"values.{i}.covisitation", "needs an entity of one column")
            if value.covisitation and value.covisitation.session in self.entity:
                raise fault(f"values.{i}.covisitation.session", "is the entity itself; expected another column")
        return self

    @property
    def look_back_hours(self) -> float:
        """Hours before a row whose events are needed.

        The contexts of the pairs of a co-visitation begin up to one window before the pairs.
        """
        return max(value.hours * (2 if value.covisitation else 1) for value in self.values)

    @property
    def row_columns(self) -> tuple[str, ...]:
        """Columns that a row needs for its values: the columns of its entity and of its sessions."""
        return tuple(dict.fromkeys(column for value in self.values for column in self.columns_of(value)))

    def columns_of(self, value: FeatureValue) -> tuple[str, ...]:
        """Returns the columns that a row needs for one of the values."""
        return (*self.entity, value.covisitation.session) if value.covisitation else self.entity

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the log that the table reads, each once."""
        used = [*self.entity, *([self.where.column] if self.where else [])]
        for value in self.values:
            used += [kind.column for kind in (value.rate, value.last) if kind]
            used += [value.covisitation.session] if value.covisitation else []
        return tuple(dict.fromkeys(used))
