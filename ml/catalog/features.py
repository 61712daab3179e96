"""What a log's columns become, as the catalog declares it: the label, dense and sparse features, splits.

Declarations only; transforming lives in `ml.features`. How the columns are read is `ml.catalog.reading`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from ml.catalog.reading import ColumnName
from ml.catalog.strict import Bool, Float, Int, Strict, fault

# Features name the tables of a model, whose parameters are addressed with dots.
FeatureName = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^.\s/:*?\[\]{}\\]+$")]


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


class Negatives(Strict):
    """Seeded sampling of items that the user was (probably) shown or could have been shown, and did not take."""

    per_positive: Int = Field(default=4, ge=1, le=1000, description="Negatives for each positive.")
    window_hours: Float = Field(
        default=6.0,
        gt=0,
        le=720,
        description="Candidates are items with an event in this many hours before, but for the user's own of the day and of "
        "as many hours before its first event.",
    )
    distribution: Literal["uniform", "popularity"] = Field(
        default="uniform", description="Over the window's distinct items, or over its events."
    )
    seed: Int = Field(default=0, ge=0, description="The same seed draws the same negatives.")
    recent: dict[ColumnName, Annotated[Float, Field(gt=0, le=720)]] = Field(
        default={},
        description="Columns to make, for features: how many events a row's item had in so many hours before the row. "
        "`{clicks_1h: 1}`. Over `window_hours` or more at least 1: every candidate has an event there, and a 0 would give the "
        "label away.",
    )

    @property
    def look_back_hours(self) -> float:
        """How far before a row events are looked at."""
        return max(self.window_hours, *self.recent.values(), 0.0)


class Label(Strict):
    """What is to be predicted: a 0/1 column, a column at or above a threshold, or every row a positive."""

    column: ColumnName | None = Field(default=None, description="Column of 0 and 1, or of numbers with `at_least`.")
    at_least: Float | None = Field(
        default=None, description="Positive where the column is at or above this; missing is refused."
    )
    negatives: Negatives | None = Field(default=None, description="Every row is a positive; negatives are sampled.")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.column is None) == (self.negatives is None):
            raise fault("", "give either column (with or without at_least), or negatives")
        if self.at_least is not None and self.column is None:
            raise fault("at_least", "needs column")
        return self


class DenseColumn(Strict):
    """One float32 feature. Order of work: fill, clip, log1p, scale."""

    name: FeatureName = Field(description="Of the feature. `I{1..13}` stands for thirteen.")
    column: str = Field(default="", description="Column of the log or of a joined table; the feature's own name by default.")
    fill: Float = Field(default=0.0, description="In place of a missing value.")
    clip: tuple[Float | None, Float | None] | None = Field(
        default=None, description="Lower and upper bound; null for none: `[0, null]`."
    )
    log1p: Bool = Field(default=False, description="Take log(1 + max(x, 0)).")
    scale: Float = Field(default=1.0, description="Factor, last of all.")

    @model_validator(mode="before")
    @classmethod
    def _own_name(cls, data: Any) -> Any:
        return {"column": data["name"], **data} if isinstance(data, dict) and _is_name(data.get("name")) else data

    @model_validator(mode="after")
    def _check(self) -> Self:
        low, high = self.clip or (None, None)
        if low is not None and high is not None and low >= high:
            raise fault("clip", f"lower bound {low:g} is not below upper bound {high:g}")
        return self


class VocabularySpec(Strict):
    """Ids by a frequency-limited dictionary instead of by hash; built from earlier days, never renumbered."""

    min_count: Int = Field(default=1, ge=1, description="Occurrences, over all earlier days, before a value gets an id.")
    max_size: Int | None = Field(default=None, ge=1, description="No value gets an id beyond this many.")


class SparseColumn(Strict):
    """One id feature: the value of a column, its bucket, its parts, a cross of columns, the hour of the event, or what the user
    took before.

    A name alone, `- country`, is a feature of the column of that name.
    """

    name: FeatureName = Field(description="Of the feature. `C{1..26}` stands for twenty-six.")
    column: ColumnName | None = Field(
        default=None, description="Column of the log or of a joined table; the feature's own name by default."
    )
    split: str | None = Field(default=None, min_length=1, description="Many ids: the value's parts between this separator.")
    max_values: Int = Field(default=64, ge=1, description="With split: parts beyond this many are left out.")
    bucketise: tuple[Float, ...] | None = Field(
        default=None, description="Ascending edges; id by the bucket a number falls in."
    )
    cross: tuple[ColumnName, ...] | None = Field(
        default=None, min_length=2, max_length=4, description="Columns whose values together are one."
    )
    hour_of_day: Bool = Field(default=False, description="The event's hour, 0 to 23, in the log's time zone.")
    history: Int | None = Field(
        default=None,
        ge=1,
        le=100,
        description="Many ids: so many of the user's last items before the row, newest first, with the ids of the feature of "
        "the item's column. For logs with sampled negatives; looks back as far as they do.",
    )
    vocabulary: VocabularySpec | None = Field(default=None, description="Absent: the id is a 64-bit hash of (feature, value).")

    @model_validator(mode="before")
    @classmethod
    def _own_name(cls, data: Any) -> Any:
        others = ("cross", "hour_of_day", "history")
        if isinstance(data, dict) and _is_name(data.get("name")) and not any(data.get(key) for key in others):
            return {"column": data["name"], **data}
        return data

    @model_validator(mode="after")
    def _check(self) -> Self:
        if sum((self.column is not None, self.cross is not None, self.hour_of_day, self.history is not None)) != 1:
            raise fault("", "give one of column, cross, hour_of_day or history")
        if self.history is not None and self.vocabulary:
            raise fault("vocabulary", "a history has the ids of the item's feature")
        if self.split and self.bucketise is not None:
            raise fault("split", "does not go together with bucketise")
        for key in ("split", "bucketise"):
            if getattr(self, key) is not None and self.column is None:
                raise fault(key, "needs column")
        if self.bucketise is not None and (not self.bucketise or list(self.bucketise) != sorted(set(self.bucketise))):
            raise fault("bucketise", f"edges must be ascending and distinct, found {list(self.bucketise)!r:.80}")
        if self.cross and len(set(self.cross)) < len(self.cross):
            raise fault("cross", f"a column is named more than once: {list(self.cross)}")
        return self

    @property
    def multi_valued(self) -> bool:
        return self.split is not None or self.history is not None

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.cross or ((self.column,) if self.column else ())


class Splits(Strict):
    """Shares of each day; the rest is train."""

    by: Literal["time", "hash"] = Field(
        default="time", description="The day's last rows are test and those before them validation, or rows are drawn by hash."
    )
    validation: Float = Field(default=0.05, ge=0, lt=1, description="Share of the rows.")
    test: Float = Field(default=0.05, ge=0, lt=1, description="Share of the rows.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.validation + self.test >= 1:
            raise fault("", f"validation {self.validation:g} and test {self.test:g} leave nothing to train on")
        return self
