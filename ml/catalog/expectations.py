"""What a day should look like, as the catalog declares it. Declarations only; judging lives in `ml.quality`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from ml.catalog.reading import ColumnName
from ml.catalog.strict import Float, Int, Strict, fault

Severity = Literal["error", "warning"]


class Band(Strict):
    """Where a figure should lie, and what it means when it does not. An error blocks what is downstream."""

    min: Float | None = Field(default=None, description="Least that is fine; absent: no lower bound.")
    max: Float | None = Field(default=None, description="Most that is fine; absent: no upper bound.")
    severity: Severity = Field(default="error", description="`error` blocks what is downstream, `warning` does not.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min is None and self.max is None:
            raise fault("", "give min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise fault("min", f"{self.min:g} is above max {self.max:g}")
        return self


class ColumnExpectation(Strict):
    """Of one raw column: its share of missing values, and the range of the rest (numbers only)."""

    null_rate: Band | None = Field(default=None, description="Share of missing values, 0 to 1.")
    value: Band | None = Field(default=None, description="Every value that is not missing; of columns of numbers.")


class Expectations(Strict):
    """What a day should look like; defaults suit most logs, and a user's YAML overrides any of them."""

    quarantine_rate: Band = Field(default=Band(max=0.01), description="Malformed lines over all lines.")
    volume: Band = Field(default=Band(min=0.2, max=5.0, severity="warning"), description="Rows over the median of recent days.")
    label_rate: Band = Field(default=Band(min=0.0001, max=0.9999), description="Share of positives.")
    drift: Band = Field(
        default=Band(max=0.25, severity="warning"),
        description="Population stability index of each sparse feature but users and items, against the previous days.",
    )
    recent_days: Int = Field(default=7, ge=1, le=366, description="How many previous days volume and drift compare with.")
    unique: tuple[ColumnName, ...] = Field(
        default=(), description="Columns that together identify a row (event_time may be named)."
    )
    duplicates: Band = Field(default=Band(max=0.0), description="Share of rows whose unique columns repeat another row's.")
    columns: dict[ColumnName, ColumnExpectation] = Field(
        default={}, description="By column of the log; `C{1..26}: {null_rate: {max: 0.5}}` stands for twenty-six."
    )
