"""Catalog keys that say what a day should look like. Declarations only; `ml.quality` checks them."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from ml.catalog.reading import ColumnName
from ml.catalog.strict import Float, Int, Strict, fault

Severity = Literal["error", "warning"]


class Band(Strict):
    """Allowed range of a statistic, and the severity of a value outside it.

    A share of rows, a number of rows or a drift that is outside, but no further than sampling noise explains (one-sided test,
    p >= 0.001), is a warning whatever the severity. On small days, a few rows can therefore not block.
    """

    min: Float | None = Field(default=None, description="Smallest allowed value; no lower bound by default.")
    max: Float | None = Field(default=None, description="Largest allowed value; no upper bound by default.")
    severity: Severity = Field(default="error", description="`error` blocks downstream assets, `warning` does not.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min is None and self.max is None:
            raise fault("", "give min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise fault("min", f"{self.min:g} is above max {self.max:g}")
        return self


class ColumnExpectation(Strict):
    """Expectations of one column of the log or of a side table."""

    null_rate: Band | None = Field(default=None, description="Share of missing values, between 0 and 1.")
    value: Band | None = Field(default=None, description="Values that are not missing; only for columns of numbers.")


class Expectations(Strict):
    """Expectations of a day. The defaults suit most logs."""

    quarantine_rate: Band = Field(default=Band(max=0.01), description="Share of malformed lines.")
    volume: Band = Field(
        default=Band(min=0.2, max=5.0, severity="warning"), description="Number of rows relative to the median of recent days."
    )
    label_rate: Band = Field(default=Band(min=0.0001, max=0.9999), description="Share of positive labels.")
    join_match: Band = Field(
        default=Band(min=0.1),
        description="Share of the day's rows whose key is in a side table, for each table of `join`. Rows without a key do not "
        "count.",
    )
    drift: Band = Field(
        default=Band(max=0.25, severity="warning"),
        description="Population stability index of each sparse feature against recent days; users and items are excluded.",
    )
    recent_days: Int = Field(
        default=7, ge=1, le=366, description="Number of previous days that volume and drift are compared with."
    )
    unique: tuple[ColumnName, ...] = Field(
        default=(), description="Columns that together identify a row; `event_time` is allowed."
    )
    duplicates: Band = Field(
        default=Band(max=0.0), description="Share of rows that repeat another row's values of the `unique` columns."
    )
    columns: dict[ColumnName, ColumnExpectation] = Field(
        default={},
        description="Expectations by column of the log, which `raw_logs` is checked for, or by joined column, which "
        "`cleaned_features` is checked for; `C{1..26}: {null_rate: {max: 0.5}}` declares twenty-six.",
    )
