"""What a dataset is: the pydantic models behind `catalog/*.yaml`, all importable from here.

A `DatasetSpec` says where the logs lie, how to read them, what is a label, a feature, a user, an item, and what
to expect of a day. It holds declarations only; reading lives in `ml.logs`, transforming in `ml.features`.
Here are the whole and what its parts ask of each other; loading a file, with errors that name the file and the key
path, is `ml.catalog.load`.
"""

from __future__ import annotations

import hashlib
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Self
from zoneinfo import ZoneInfo

from pydantic import Field, PrivateAttr, model_validator

from ml.catalog.expand import expand_entry
from ml.catalog.expectations import Band, ColumnExpectation, Expectations, Severity
from ml.catalog.features import DenseColumn, Label, Negatives, SparseColumn, Splits, VocabularySpec
from ml.catalog.log_spec import RESERVED_COLUMNS, LabelColumn, LogSpec, check_log, hash_of
from ml.catalog.reading import ColumnName, ColumnType, Partitions, SideTable, Simulation, Source, Time
from ml.catalog.strict import Int, Strict, fault
from ml.days import day_before

__all__ = [
    "Band",
    "ColumnExpectation",
    "ColumnType",
    "DatasetSpec",
    "DenseColumn",
    "Expectations",
    "Label",
    "LabelColumn",
    "LogSpec",
    "ModelChoice",
    "Negatives",
    "Partitions",
    "Severity",
    "SideTable",
    "Simulation",
    "Source",
    "SparseColumn",
    "Splits",
    "Strict",
    "Time",
    "VocabularySpec",
]

NUMBERS = ("int", "float", "bool")


ModelName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class RecipeOfAll(Strict):
    """What differs from the recipes of all of a dataset's models."""

    overrides: dict[str, Any] = Field(default={}, description="Keys of the recipe with other values, nested as they are there.")


class ModelChoice(Strict):
    """Which recipe trains a model, and what differs from it."""

    recipe: str | None = Field(
        default=None,
        pattern=r"^[\w-]+$",
        description="Of the file in `recipes/` beside the entry, else of a built-in one; by default the model's own name.",
    )
    overrides: dict[str, Any] = Field(default={}, description="Keys of the recipe with other values, nested as they are there.")
    _folder: Path | None = PrivateAttr(default=None)

    @property
    def folder(self) -> Path | None:
        """Where the recipe lies; known of an entry that was read from a file."""
        return self._folder

    def found_in(self, folder: Path) -> Self:
        found = self.model_copy()
        found._folder = folder
        return found


class DatasetSpec(Strict):
    """One dataset: a file `catalog/<name>.yaml`."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="The dataset's name, as the file is called.")
    description: str = Field(description="One sentence, shown beside every asset.")
    source: Source = Field(description="Where log lines lie and how they are read.")
    time: Time = Field(description="When a row happened.")
    partitions: Partitions = Field(description="The log's days.")
    label: Label = Field(description="What is to be predicted.")
    user: ColumnName | None = Field(default=None, description="Column that says who.")
    item: ColumnName | None = Field(default=None, description="Column that says what.")
    dense: tuple[DenseColumn, ...] = Field(default=(), description="Features that are numbers.")
    sparse: tuple[SparseColumn, ...] = Field(min_length=1, description="Features that are ids.")
    join: tuple[SideTable, ...] = Field(default=(), description="Tables whose columns are joined to the log.")
    slices: tuple[ColumnName, ...] = Field(
        default=(), description="Columns whose commonest values the report looks at one by one."
    )
    splits: Splits = Field(default=Splits(), description="What of a day is for validation and test.")
    expectations: Expectations = Field(default=Expectations(), description="What a day should look like.")
    oracle: ColumnName | None = Field(
        default=None, description="Column with the true click probability, where the log is simulated."
    )
    simulation: Simulation | None = Field(default=None, description="Of a log that Evergreen writes itself.")
    models: dict[ModelName, ModelChoice] = Field(
        default={"dlrm": ModelChoice()}, min_length=1, description="Models to train; reports are about the first."
    )
    recipe: RecipeOfAll = Field(default=RecipeOfAll(), description="How they are trained.")
    demo_days: Int = Field(default=4, ge=2, description="How many days `make demo` runs.")

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, data: Any) -> Any:
        return expand_entry(data)

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_log(self.source, self.time, self.partitions)
        self._check_joins()
        self._check_columns()
        self._check_types()
        if self.label.negatives and (self.user is None or self.item is None):
            raise fault("label.negatives", "sampling needs user and item")
        if self.oracle and not self.simulation:
            raise fault("oracle", "only a simulated log knows its true click probability")
        self._check_features()
        for feature in (feature for feature in self.sparse if feature.history):
            if not self.label.negatives:
                raise fault(f"sparse.{feature.name}.history", "is for logs with label.negatives")
            if self.item_feature is None:
                raise fault(f"sparse.{feature.name}.history", f"needs a sparse feature of the item's column, {self.item!r}")
        return self

    def _check_joins(self) -> None:
        known = dict.fromkeys(self.source.columns, "the log")
        for i, table in enumerate(self.join):
            for column in table.columns:
                if column in known:
                    raise fault(f"join.{i}.columns", f"{column!r} would hide the column of {known[column]} of that name")
                known[column] = f"join.{i}"
        for name in self.label.negatives.recent if self.label.negatives else ():
            if name in known:
                raise fault(f"label.negatives.recent.{name}", f"would hide the column of {known[name]} of that name")
            known[name] = "label.negatives.recent"
        if reserved := sorted(set(known) & set(RESERVED_COLUMNS)):
            raise fault("source.columns", f"{reserved} are names that Evergreen uses itself")

    def _check_columns(self) -> None:
        """Every column that is named is there."""
        raw, known = set(self.source.columns), set(self.column_types)
        named: list[tuple[str, str | None, set[str]]] = [
            ("label.column", self.label.column, known),
            ("user", self.user, raw if self.label.negatives else known),  # negatives are drawn before the join
            ("item", self.item, raw if self.label.negatives else known),
            ("oracle", self.oracle, known),
        ]
        named += [(f"dense.{d.name}.column", d.column, known) for d in self.dense]
        named += [
            (f"sparse.{s.name}.{'cross' if s.cross else 'column'}", column, known) for s in self.sparse for column in s.inputs
        ]
        named += [(f"slices.{i}", column, known) for i, column in enumerate(self.slices)]
        named += [(f"join.{i}.log_key", t.log_key, raw) for i, t in enumerate(self.join)]
        named += [(f"expectations.columns.{c}", c, raw) for c in self.expectations.columns]
        named += [("expectations.unique", c, raw) for c in self.expectations.unique if c != "event_time"]
        for path, column, there in named:
            if column is not None and column not in there:
                raise fault(path, f"no column {column!r}; the columns are {sorted(there)}")

    def _check_features(self) -> None:
        names = [f.name for f in (*self.dense, *self.sparse)]
        if double := sorted({n for n in names if names.count(n) > 1}):
            raise fault("sparse", f"{double} named more than once, among dense and sparse")
        for kind, features in (("dense", self.dense), ("sparse", self.sparse)):
            if taken := [f.name for f in features if f.name in RESERVED_FEATURES]:
                raise fault(f"{kind}.{taken[0]}", "this name is Evergreen's own; give the feature another")
        answers = {self.label.column, self.oracle} - {None}
        for kind, feature, inputs in (
            *(("dense", d.name, (d.column,)) for d in self.dense),
            *(("sparse", s.name, s.inputs) for s in self.sparse),
        ):
            if told := answers & set(inputs):
                raise fault(
                    f"{kind}.{feature}", f"column {told.pop()!r} is what is to be predicted: a feature would give it away"
                )

    def _check_types(self) -> None:
        types = self.column_types
        for dense in self.dense:
            if types[dense.column] not in NUMBERS:
                raise fault(f"dense.{dense.name}.column", f"{dense.column!r} is {types[dense.column]}, expected a number")
        for sparse in self.sparse:
            if sparse.split and types[sparse.column or ""] != "string":
                raise fault(f"sparse.{sparse.name}.split", f"column {sparse.column!r} is not a string")
            if sparse.bucketise and types[sparse.column or ""] not in NUMBERS:
                raise fault(f"sparse.{sparse.name}.bucketise", f"column {sparse.column!r} is not a number")
        for key, column in (("label.column", self.label.column), ("oracle", self.oracle)):
            if column and types[column] not in NUMBERS:
                raise fault(key, f"{column!r} is {types[column]}, expected a number")
        for i, table in enumerate(self.join):
            log, other = types[table.log_key], table.source.columns[table.table_key]
            if log != other:
                raise fault(f"join.{i}.table_key", f"{table.table_key!r} is {other} and {table.log_key!r} of the log is {log}")
        for column, expectation in self.expectations.columns.items():
            if expectation.value and types[column] not in NUMBERS:
                raise fault(f"expectations.columns.{column}.value", f"{column!r} is {types[column]}, expected a number")

    @property
    def column_types(self) -> dict[str, ColumnType]:
        """Types of the log's columns, of those joined to it, and of those made beside sampled negatives."""
        types = dict(self.source.columns)
        for table in self.join:
            types |= {column: table.source.columns[column] for column in table.columns}
        for name in self.label.negatives.recent if self.label.negatives else ():
            types[name] = "int"
        return types

    @property
    def item_feature(self) -> str | None:
        """The sparse feature that is the item itself, hashed."""
        plain = (f for f in self.sparse if f.column == self.item and not (f.split or f.bucketise or f.vocabulary))
        return next((feature.name for feature in plain), None) if self.item else None

    @property
    def primary(self) -> str:
        """The model that reports are about: the first."""
        return next(iter(self.models))

    @property
    def log(self) -> LogSpec:
        """Where the dataset's log is stored and how it is read: all that `ml.logs` needs."""
        column, binary = self.label.column, self.label.at_least is None
        return LogSpec(
            dataset=self.name,
            source=self.source,
            time=self.time,
            partitions=self.partitions,
            label=LabelColumn(column=column, binary=binary) if column is not None and column in self.source.columns else None,
            simulation=self.simulation,
        )

    @property
    def zone(self) -> ZoneInfo:
        return self.log.zone

    def days(self, last: date | None = None) -> list[str]:
        """Partition keys (`YYYY-MM-DD`) of the log, in order; see `LogSpec.days`."""
        return self.log.days(last)

    def previous_day(self, day: str) -> str | None:
        """Returns the day before `day`, None for the dataset's first. Raises `ValueError` for any other day."""
        first, last, asked = self.partitions.start, self.partitions.end, date.fromisoformat(day)
        if asked < first or (last is not None and asked > last):
            raise ValueError(f"{self.name} has no day {day}: its days are {first} to {last or 'today'}")
        return None if asked == first else day_before(day)

    @property
    def fingerprint(self) -> str:
        """Hash of everything that shapes features. Data written under one fingerprint is refused under another."""
        features = hash_of(self, set(type(self).model_fields) - _SHAPES_FEATURES)
        return hashlib.sha256(f"{_IDS} {self.log.fingerprint} {features}".encode()).hexdigest()[:16]

    def fingerprint_of(self, stage: str) -> str:
        """The fingerprint that partitions of a stage carry: the log's for its raw rows, the dataset's for all that follows."""
        return self.log.fingerprint if stage == self.log.stage else self.fingerprint


# Version of how values become ids and rows get their sampling rates. Increase it with either, so that features are not mixed.
_IDS = 3
RESERVED_FEATURES = ("event_time", "label", "sample_rate", "oracle")
_SHAPES_FEATURES = {"label", "user", "item", "dense", "sparse", "join", "splits"}
