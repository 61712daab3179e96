"""What a dataset is: the pydantic models behind `catalog/*.yaml`.

A `DatasetSpec` says where the logs lie, how to read them, what is a label, a feature, a user, an item, and what
to expect of a day. It holds declarations only; reading lives in `ml.logs`, transforming in `ml.features`.
Loading a file, with errors that name the file and the key path, is `ml.catalog.load`.
"""

from __future__ import annotations

import hashlib
import json
from datetime import date, timedelta
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from ml.catalog.expand import expand_mapping, expand_named

ColumnType = Literal["int", "float", "string", "bool"]

MICROSECONDS_PER_DAY = 86_400_000_000


def _is_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except Exception as error:
        raise ValueError(f"not an IANA time zone such as 'UTC' or 'America/Sao_Paulo': {name!r}") from error
    return name


class Strict(BaseModel):
    """Frozen, and an unknown key is an error: a typo must never become a silent default."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(Strict):
    """Where log lines lie and how one is cut into typed columns."""

    files: str = Field(description="Glob below the dataset's landing folder. May hold strftime codes (%Y-%m-%d): "
                                   "then a file's day is known from its path.")  # fmt: skip
    members: str = Field(default="*", description="Glob of member names, for zip archives.")
    format: Literal["csv", "tsv", "jsonl", "parquet"]
    header: bool = Field(default=False, description="Whether each file (and zip member) begins with a header line.")
    columns: dict[str, ColumnType] = Field(min_length=1, description="Names in file order, with types. `I{1..13}: int` "
                                                                     "stands for thirteen columns.")  # fmt: skip
    rename: dict[str, str] = Field(default={}, description="Name in the file's header (or JSON key) -> name in `columns`.")
    separator: str | None = Field(default=None, min_length=1, max_length=1, description="Overrides the format's own.")
    quoted: bool = Field(default=False, description="Whether CSV fields may be quoted with double quotes.")
    null_tokens: tuple[str, ...] = ("",)
    encoding: Literal["utf-8", "latin-1"] = "utf-8"
    spill_days: int = Field(
        default=0, ge=0, le=7, description="With a dated path: how many days a row may lie from its file's day."
    )

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, data: Any) -> Any:
        return expand_mapping(data, "columns")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.quoted and self.format not in ("csv", "tsv"):
            raise ValueError(f"quoted: only csv and tsv have quotes, this is {self.format}")
        if self.separator and self.format not in ("csv", "tsv"):
            raise ValueError(f"separator: only csv and tsv have one, this is {self.format}")
        if unknown := set(self.rename.values()) - set(self.columns):
            raise ValueError(f"rename: {sorted(unknown)} not among columns")
        if self.spill_days and not self.dated:
            raise ValueError("spill_days: needs a dated path (strftime codes in files)")
        return self

    @property
    def dated(self) -> bool:
        """Whether a file's day is known from its path."""
        return "%" in self.files

    @property
    def delimiter(self) -> str:
        return self.separator or {"csv": ",", "tsv": "\t"}.get(self.format, "")


class Time(Strict):
    """When a row happened: a column, or equal parts of the whole log by position."""

    column: str | None = None
    unit: Literal["s", "ms", "us", "ns", "iso8601"] = "s"
    timezone: Annotated[str, AfterValidator(_is_zone)] = Field(default="UTC", description="A day is a day in this zone.")
    by_position: bool = Field(default=False, description="No clock in the log: the partition range's days are equal parts of "
                                                 "it, in file order, and event times are spread evenly over each.")  # fmt: skip

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.column is None) == (not self.by_position):
            raise ValueError("give either column, or by_position: true")
        return self


class Negatives(Strict):
    """Seeded sampling of items that the user was (probably) shown or could have been shown, and did not take."""

    per_positive: int = Field(default=4, ge=1, le=1000)
    window_hours: float = Field(default=6.0, gt=0, description="Candidates are items with an event in the hours before.")
    distribution: Literal["uniform", "popularity"] = Field(default="uniform", description="Over the window's distinct items, "
                                                                                  "or over its events.")  # fmt: skip
    seed: int = 0


class Label(Strict):
    """What is to be predicted: a 0/1 column, a column at or above a threshold, or every row a positive."""

    column: str | None = None
    at_least: float | None = Field(
        default=None, description="Positive where the column is at or above this; missing is refused."
    )
    negatives: Negatives | None = Field(default=None, description="Every row is a positive; negatives are sampled.")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.column is None) == (self.negatives is None):
            raise ValueError("give either column (with or without at_least), or negatives")
        if self.at_least is not None and self.column is None:
            raise ValueError("at_least: needs column")
        return self


class DenseColumn(Strict):
    """One float32 feature. Order of work: fill, clip, log1p, scale."""

    name: str
    column: str = Field(default="", description="Column of the log or of a joined table; the feature's own name by default.")
    fill: float = Field(default=0.0, allow_inf_nan=False, description="In place of a missing value.")
    clip: tuple[float | None, float | None] | None = None
    log1p: bool = Field(default=False, description="log(1 + max(x, 0)).")
    scale: float = Field(default=1.0, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _own_name(cls, data: Any) -> Any:
        return {"column": data.get("name"), **data} if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.clip and None not in self.clip and self.clip[0] >= self.clip[1]:  # type: ignore[operator]
            raise ValueError(f"clip: lower bound {self.clip[0]} is not below upper bound {self.clip[1]}")
        return self


class VocabularySpec(Strict):
    """Ids by a frequency-limited dictionary instead of by hash; built from earlier days, never renumbered."""

    min_count: int = Field(default=1, ge=1, description="Occurrences, over all earlier days, before a value gets an id.")
    max_size: int | None = Field(default=None, ge=1, description="No value gets an id beyond this many.")


class SparseColumn(Strict):
    """One id feature: the value of a column, its bucket, its parts, a cross of columns, or the hour of the event."""

    name: str
    column: str | None = None
    split: str | None = Field(default=None, min_length=1, description="Many ids: the value's parts between this separator.")
    max_values: int = Field(default=64, ge=1, description="With split: parts beyond this many are left out.")
    bucketise: tuple[float, ...] | None = Field(
        default=None, description="Ascending edges; id by the bucket a number falls in."
    )
    cross: tuple[str, ...] | None = Field(
        None, min_length=2, max_length=4, description="Columns whose values together are one."
    )
    hour_of_day: bool = Field(default=False, description="The event's hour, 0 to 23, in the log's time zone.")
    vocabulary: VocabularySpec | None = Field(default=None, description="Absent: the id is a 64-bit hash of (feature, value).")

    @model_validator(mode="before")
    @classmethod
    def _own_name(cls, data: Any) -> Any:
        if isinstance(data, dict) and not data.get("cross") and not data.get("hour_of_day"):
            return {"column": data.get("name"), **data}
        return data

    @model_validator(mode="after")
    def _check(self) -> Self:
        if sum((self.column is not None, self.cross is not None, self.hour_of_day)) != 1:
            raise ValueError("give one of column, cross or hour_of_day")
        if self.split and self.bucketise:
            raise ValueError("split and bucketise do not go together")
        if (self.split or self.bucketise) and self.column is None:
            raise ValueError("split and bucketise need column")
        if self.bucketise is not None and (not self.bucketise or list(self.bucketise) != sorted(set(self.bucketise))):
            raise ValueError("bucketise: edges must be ascending and distinct")
        return self

    @property
    def multi_valued(self) -> bool:
        return self.split is not None

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.cross or ((self.column,) if self.column else ())


class SideTable(Strict):
    """A table joined to the log on one column: item titles, user ages. Left join; the log's rows and order stay."""

    source: Source
    log_key: str
    table_key: str
    columns: tuple[str, ...] = Field(min_length=1, description="Columns of the table that become columns of the log.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if unknown := {self.table_key, *self.columns} - set(self.source.columns):
            raise ValueError(f"{sorted(unknown)} not among source.columns {sorted(self.source.columns)}")
        return self


class Splits(Strict):
    """Shares of each day; the rest is train."""

    by: Literal["time", "hash"] = "time"
    validation: float = Field(default=0.05, ge=0, lt=1)
    test: float = Field(default=0.05, ge=0, lt=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.validation + self.test >= 1:
            raise ValueError("validation and test leave nothing to train on")
        return self


Severity = Literal["error", "warning"]


class Band(Strict):
    """Where a figure should lie, and what it means when it does not. An error blocks what is downstream."""

    min: float | None = None
    max: float | None = None
    severity: Severity = "error"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("give min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self


class ColumnExpectation(Strict):
    """Of one raw column: its share of missing values, and the range of the rest (numbers only)."""

    null_rate: Band | None = None
    value: Band | None = None


class Expectations(Strict):
    """What a day should look like; defaults suit most logs, and a user's YAML overrides any of them."""

    quarantine_rate: Band = Band(max=0.01)
    volume: Band = Field(default=Band(min=0.2, max=5.0, severity="warning"), description="Rows over the median of recent days.")
    label_rate: Band = Band(min=0.0001, max=0.9999)
    drift: Band = Field(default=Band(max=0.25, severity="warning"), description="Population stability index of each sparse "
                                                                      "feature against the previous days.")  # fmt: skip
    recent_days: int = Field(default=7, ge=1, description="How many previous days volume and drift compare with.")
    unique: tuple[str, ...] = Field(default=(), description="Columns that together identify a row (event_time may be named).")
    duplicates: Band = Field(default=Band(max=0.0), description="Share of rows whose unique columns repeat another row's.")
    columns: dict[str, ColumnExpectation] = {}

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, data: Any) -> Any:
        return expand_mapping(data, "columns")


class Partitions(Strict):
    """The days of the log, both ends included; without an end it is live."""

    start: date
    end: date | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.end and self.end < self.start:
            raise ValueError(f"end {self.end} is before start {self.start}")
        return self


class Simulation(Strict):
    """A generator writes the landing files of this dataset (`ml.logs.synthetic`): simulated, and said so."""

    seed: int = 0
    impressions_per_day: int = Field(default=200_000, ge=1)
    users: int = Field(default=50_000, ge=1)
    items: int = Field(default=5_000, ge=1, description="Alive on any one day.")
    malformed_rate: float = Field(default=0.0005, ge=0, le=0.5)


class RecipeChoice(Strict):
    """Which recipe trains this dataset's model, and what differs from it."""

    name: str = "dlrm"
    overrides: dict[str, Any] = {}


class DatasetSpec(Strict):
    """One dataset of the catalog. `spec.days(...)`, `spec.feature_inputs` and `spec.fingerprint` are derived."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    description: str
    source: Source
    time: Time
    partitions: Partitions
    label: Label
    user: str | None = None
    item: str | None = None
    dense: tuple[DenseColumn, ...] = ()
    sparse: tuple[SparseColumn, ...] = Field(min_length=1)
    join: tuple[SideTable, ...] = ()
    slices: tuple[str, ...] = Field(default=(), description="Columns whose commonest values the report looks at one by one.")
    splits: Splits = Splits()
    expectations: Expectations = Expectations()
    oracle: str | None = Field(default=None, description="Column with the true click probability, where the log is simulated.")
    simulation: Simulation | None = None
    recipe: RecipeChoice = RecipeChoice()
    demo_days: int = Field(default=4, ge=2, description="How many days `make demo` runs.")

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, data: Any) -> Any:
        return expand_named(expand_named(data, "dense"), "sparse")

    @model_validator(mode="after")
    def _check(self) -> Self:
        raw = self.source.columns
        joined = {column for table in self.join for column in table.columns}
        if twice := joined & set(raw):
            raise ValueError(f"join: {sorted(twice)} would hide columns of the log")
        known = set(raw) | joined
        if reserved := known & set(RESERVED_COLUMNS):
            raise ValueError(f"source.columns: {sorted(reserved)} are names that Evergreen uses itself")
        named: list[tuple[str, str | None]] = [
            ("time.column", self.time.column),
            ("label.column", self.label.column),
            ("user", self.user),
            ("item", self.item),
            ("oracle", self.oracle),
        ]
        named += [(f"dense.{d.name}.column", d.column) for d in self.dense]
        named += [(f"sparse.{s.name}", column) for s in self.sparse for column in s.inputs]
        named += [(f"slices.{i}", column) for i, column in enumerate(self.slices)]
        named += [(f"join.{i}.log_key", t.log_key) for i, t in enumerate(self.join)]
        named += [(f"expectations.columns.{c}", c) for c in self.expectations.columns]
        named += [("expectations.unique", c) for c in self.expectations.unique if c != "event_time"]
        for path, column in named:
            if column is not None and column not in known:
                raise ValueError(f"{path}: no column {column!r}; the columns are {sorted(known)}")
        self._check_types()
        names = [f.name for f in (*self.dense, *self.sparse)]
        if double := {n for n in names if names.count(n) > 1}:
            raise ValueError(f"dense, sparse: {sorted(double)} named more than once")
        if taken := set(names) & set(RESERVED_FEATURES):
            raise ValueError(f"dense, sparse: {sorted(taken)} are names that Evergreen uses itself")
        if self.label.negatives and (self.user is None or self.item is None):
            raise ValueError("label.negatives: sampling needs user and item")
        if self.oracle and not self.simulation:
            raise ValueError("oracle: only a simulated log knows its true click probability")
        if self.time.by_position and self.partitions.end is None:
            raise ValueError("time.by_position: needs partitions.end, to cut the log into equal days")
        if self.time.by_position and self.source.dated:
            raise ValueError("time.by_position: does not go with a dated path")
        return self

    def _check_types(self) -> None:
        types = self.column_types
        numbers = ("int", "float", "bool")
        for dense in self.dense:
            if types[dense.column] not in numbers:
                raise ValueError(f"dense.{dense.name}: column {dense.column!r} is {types[dense.column]}, expected a number")
        for sparse in self.sparse:
            if sparse.split and types[sparse.column or ""] != "string":
                raise ValueError(f"sparse.{sparse.name}.split: column {sparse.column!r} is not a string")
            if sparse.bucketise and types[sparse.column or ""] not in numbers:
                raise ValueError(f"sparse.{sparse.name}.bucketise: column {sparse.column!r} is not a number")
        if self.label.column and types[self.label.column] not in numbers:
            raise ValueError(f"label.column: {self.label.column!r} is {types[self.label.column]}, expected a number")
        if self.time.column:
            wanted = ("string",) if self.time.unit == "iso8601" else ("int", "float")
            if types[self.time.column] not in wanted:
                found = f"time.column: {self.time.column!r} is {types[self.time.column]}"
                raise ValueError(f"{found}; unit {self.time.unit} needs {' or '.join(wanted)}")
        for column, expectation in self.expectations.columns.items():
            if expectation.value and types[column] not in numbers:
                raise ValueError(f"expectations.columns.{column}.value: {column!r} is not a number")

    @property
    def column_types(self) -> dict[str, ColumnType]:
        """Types of the log's columns and of those joined to it."""
        types = dict(self.source.columns)
        for table in self.join:
            types |= {column: table.source.columns[column] for column in table.columns}
        return types

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.time.timezone)

    def days(self, last: date | None = None) -> list[str]:
        """Partition keys (`YYYY-MM-DD`) from the first day to the last, both included; `last` bounds a live log."""
        end = self.partitions.end or last
        if end is None:
            raise ValueError(f"{self.name}: a live log has no last day; say which")
        count = (end - self.partitions.start).days + 1
        return [(self.partitions.start + timedelta(days=i)).isoformat() for i in range(count)]

    @property
    def fingerprint(self) -> str:
        """Hash of everything that shapes features: data written under one is refused under another."""
        shaped = self.model_dump(mode="json", include=set(_SHAPES_FEATURES))
        return hashlib.sha256(json.dumps(shaped, sort_keys=True).encode()).hexdigest()[:16]


RESERVED_COLUMNS = ("event_time", "sample_rate", "row")
RESERVED_FEATURES = ("event_time", "label", "sample_rate", "oracle")
_SHAPES_FEATURES = ("name", "source", "time", "partitions", "label", "user", "item", "dense", "sparse", "join", "splits")
