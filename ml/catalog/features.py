"""Catalog keys that say what is learned from a log: the label, dense and sparse features, and splits.

Declarations only. `ml.features` computes them; `ml.catalog.reading` declares how the columns are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from ml.catalog.labels import LabelReading
from ml.catalog.reading import ColumnName, ColumnType
from ml.catalog.strict import FEATURE_NAME, Bool, Float, Int, Strict, fault, is_none
from ml.catalog.value_text import element_type

FeatureName = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=FEATURE_NAME)]


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _history(value: Any) -> Any:
    if _is_name(value) or (type(value) is int and 1 <= value <= 100):
        return value
    what = "expected an integer from 1 to 100, or the name of a `last` value of a feature table"
    raise fault("", f"{what}, found {value!r:.80}")


class Negatives(Strict):
    """Sampling of negatives for a log of positives only: items that the user could have chosen at that time and did not."""

    per_positive: Int = Field(default=4, ge=1, le=1000, description="Negatives per positive.")
    window_hours: Float = Field(
        default=6.0,
        gt=0,
        le=720,
        description="Candidates are items with an event in this many hours before the row, except items that the user chose "
        "on the day, or in this many hours before its first event.",
    )
    draw: Literal["uniform", "popularity"] = Field(
        default="uniform",
        description="How negatives are drawn: `uniform` gives all candidates the same probability; `popularity` draws in "
        "proportion to their events in the window, so that popularity alone cannot distinguish clicks from negatives.",
    )
    seed: Int = Field(default=0, ge=0, description="Seed of the sampling.")
    recent: dict[ColumnName, Annotated[Float, Field(gt=0, le=720)]] = Field(
        default={},
        description="Columns to compute: the number of events of the row's item in this many hours before the row, such as "
        "`{clicks_1h: 1}`. For `window_hours` or more the count is at least 1: every candidate has an event in the window, so "
        "a 0 would reveal the label.",
    )

    @property
    def look_back_hours(self) -> float:
        """Hours before a row whose events are needed."""
        return max(self.window_hours, *self.recent.values(), 0.0)


class Label(LabelReading):
    """The label: a column that marks positive rows, or a declaration that all rows are positive."""

    negatives: Negatives | None = Field(
        default=None, description="Declares that every row is a positive, and how negatives are sampled."
    )
    weight: ColumnName | None = Field(
        default=None,
        description="Column of the log with the weight of each row in the loss. Rows whose weight is missing, negative or "
        "infinite are quarantined. Weights of 1 on average keep the meaning of the learning rates. Reports give "
        "metrics with and without the weights.",
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.column is None) == (self.negatives is None):
            raise fault("", "give either column (with or without at_least or is) or negatives")
        for key, value in (("at_least", self.at_least), ("is", self.is_)):
            if value is not None and self.column is None:
                raise fault(key, "needs column")
        if self.weight is not None and self.column is None:
            raise fault("weight", "needs column: sampled negatives have no weight")
        return self


class DenseColumn(Strict):
    """A float32 feature. The transforms are applied in the order fill, clip, log1p, scale."""

    name: FeatureName = Field(description="Name of the feature. `I{1..13}` declares thirteen features.")
    column: str = Field(
        default="",
        description="Column of the log or of a joined table; by default, the column with the feature's name. A range, "
        "as in `I{1..13}`, gives each of as many names its own column.",
    )
    fill: Float = Field(default=0.0, description="Value that replaces a missing one.")
    clip: tuple[Float | None, Float | None] | None = Field(
        default=None, description="Lower and upper bound; null is unbounded, as in `[0, null]`."
    )
    log1p: Bool = Field(default=False, description="Whether to apply log(1 + max(x, 0)).")
    scale: Float = Field(default=1.0, description="Factor that is applied last.")

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
    """A vocabulary, built from earlier days, that numbers values in place of hashing them. Ids never change."""

    min_count: Int = Field(default=1, ge=1, description="Occurrences over all earlier days that a value needs for an id.")
    max_size: Int | None = Field(default=None, ge=1, description="Maximum number of ids; unlimited by default.")


class SparseColumn(Strict):
    """A feature of ids: a column's value, its bucket or its parts, a cross of columns, the hour, or the user's last items.

    A name alone, such as `- country`, is a feature of the column with that name.
    """

    name: FeatureName = Field(description="Name of the feature. `C{1..26}` declares twenty-six features.")
    column: ColumnName | None = Field(
        default=None,
        description="Column of the log or of a joined table; by default, the column with the feature's name. A range, "
        "as in `I{1..13}`, gives each of as many names its own column.",
    )
    split: str | None = Field(default=None, min_length=1, description="Separator at which a value is split into many ids.")
    max_values: Int = Field(
        default=64, ge=1, description="With `split` or a list: maximum number of ids; other values are dropped, see `keep`."
    )
    keep: Literal["first", "last"] = Field(
        default="first",
        exclude_if=lambda value: value == "first",
        description="Which values are kept if there are more than `max_values`, such as the last ones of a history whose first "
        "item is the oldest.",
    )
    ids_of: FeatureName | None = Field(
        default=None,
        exclude_if=is_none,
        description="Name of another sparse feature. This feature gives a value the same id as that one does, so a logged "
        "history has the ids of its items. With the table `{kind: shared, of: <name>}` in the recipe, both share embeddings.",
    )
    bucketise: tuple[Float, ...] | None = Field(
        default=None,
        description="Ascending edges of the buckets that numbers are assigned to. `{log: {per_octave: 4}}` gives 0, 1 and "
        "four edges per doubling up to 65536; `min` and `max` change these bounds.",
    )
    cross: tuple[ColumnName, ...] | None = Field(
        default=None, min_length=2, max_length=4, description="Columns whose combination of values is one id."
    )
    hour_of_day: Bool = Field(
        default=False, description="Whether the feature is the event's hour, 0 to 23, in the log's time zone."
    )
    history: Annotated[int | str, BeforeValidator(_history)] | None = Field(
        default=None,
        description="Maximum number (1 to 100) of the user's last items before the row, newest first, as ids of the feature of "
        "the item's column: only for logs with sampled negatives, and looks back as far as their sampling does. Or the name of "
        "a `last` value of a feature table, with ids of the feature of its column.",
    )
    vocabulary: VocabularySpec | None = Field(
        default=None, description="Numbers values by a vocabulary; by default, an id is a 64-bit hash of feature and value."
    )

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
            raise fault("vocabulary", "not for a history, which has the ids of the item's feature")
        if self.split and self.bucketise is not None:
            raise fault("split", "cannot be combined with bucketise")
        if self.ids_of is not None and (self.vocabulary or self.bucketise is not None):
            raise fault("ids_of", "not for a feature with vocabulary or bucketise, whose ids are its own")
        for key in ("split", "bucketise", "ids_of"):
            if getattr(self, key) is not None and self.column is None:
                raise fault(key, "needs column")
        if self.bucketise is not None and (not self.bucketise or list(self.bucketise) != sorted(set(self.bucketise))):
            raise fault("bucketise", f"expected ascending, distinct edges, found {list(self.bucketise)!r:.80}")
        if self.cross and len(set(self.cross)) < len(self.cross):
            raise fault("cross", f"expected distinct columns, found {list(self.cross)}")
        return self

    def is_multi_valued(self, types: Mapping[str, ColumnType]) -> bool:
        """Whether a row has any number of ids.

        Args:
            types: Types of the columns (`DatasetSpec.column_types`).
        """
        is_list = self.column is not None and element_type(types[self.column]) is not None
        return is_list or self.split is not None or self.history is not None

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.cross or ((self.column,) if self.column else ())


class Splits(Strict):
    """Shares of each day for validation and test. The rest is for training."""

    by: Literal["time", "hash"] = Field(
        default="time",
        description="`time`: the day's last rows are for test, those before them for validation. `hash`: rows are drawn at "
        "random.",
    )
    validation: Float = Field(default=0.05, ge=0, lt=1, description="Share of rows for validation.")
    test: Float = Field(default=0.05, ge=0, lt=1, description="Share of rows for test.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.validation + self.test >= 1:
            raise fault("", f"validation {self.validation:g} and test {self.test:g} leave no rows for training")
        return self
