"""The pydantic model of a catalog entry, `DatasetSpec`. The models of all its parts can be imported from here.

A `DatasetSpec` declares where logs are and how they are read, the label, features, user and item, and what a day's data should
look like. `ml.logs` reads logs, `ml.features` computes features, and `ml.catalog.load` loads an entry from its file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import date
from typing import Any, Self
from zoneinfo import ZoneInfo

from pydantic import Field, PrivateAttr, model_validator

from ml.catalog.actions import ActionLabel, Actions, check_actions
from ml.catalog.dataset_checks import check_columns, check_features, check_joins, check_types, check_users_and_items
from ml.catalog.expand import expand_entry
from ml.catalog.expectations import Band, ColumnExpectation, Expectations, Severity
from ml.catalog.experiment import Experiment, check_experiment
from ml.catalog.feature_tables import FeatureTable, FeatureValue
from ml.catalog.features import DenseColumn, Label, Negatives, SparseColumn, Splits, VocabularySpec
from ml.catalog.labels import FurtherLabel, LabelName, LabelRule, Words, check_labels, label_columns, label_rules, labels_hash
from ml.catalog.log_spec import LabelColumn, LogSpec, check_log, hash_of
from ml.catalog.model_choice import ModelChoice, ModelName, RecipeOfAll
from ml.catalog.ranking import Ranking, Session
from ml.catalog.reading import ColumnName, ColumnType, Partitions, SideTable, Simulation, Source, Time
from ml.catalog.retune import Retune
from ml.catalog.strict import Int, Strict, fault
from ml.catalog.table_checks import check_feature_tables
from ml.days import MICROSECONDS_PER_MINUTE, day_before
from ml.stages import FEATURE_TABLES

__all__ = [
    "ActionLabel",
    "Actions",
    "Band",
    "ColumnExpectation",
    "ColumnType",
    "DatasetSpec",
    "DenseColumn",
    "Expectations",
    "FeatureTable",
    "FeatureValue",
    "FurtherLabel",
    "Label",
    "LabelColumn",
    "LabelRule",
    "LogSpec",
    "ModelChoice",
    "Negatives",
    "Partitions",
    "Ranking",
    "Retune",
    "Session",
    "Severity",
    "SideTable",
    "Simulation",
    "Source",
    "SparseColumn",
    "Splits",
    "Strict",
    "Time",
    "VocabularySpec",
    "Words",
]


class DatasetSpec(Strict):
    """A dataset, declared by the file `catalog/<name>.yaml`."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="Name of the dataset and of its file.")
    description: str = Field(description="One sentence that is shown with every asset.")
    source: Source = Field(description="Where the log's files are and how they are read.")
    time: Time = Field(description="Event time of a row.")
    partitions: Partitions = Field(description="First and last day of the log.")
    actions: Actions | None = Field(
        default=None,
        description="A second log, of the actions of users. The entry's own log then has the impressions, and the joiner gives "
        "each impression its labels.",
    )
    label: Label = Field(description="The main label, by which models are compared and the champion is chosen.")
    labels: dict[LabelName, FurtherLabel] = Field(
        default={},
        description="Further binary labels by name, each learned by a head of the same model. The recipe's `loss_weights` sets "
        "the weight of each in the loss. Two-tower models learn the main label only. Regression and multi-class labels are not "
        "supported.",
    )
    user: ColumnName | None = Field(default=None, description="Column that identifies the user.")
    item: ColumnName | None = Field(default=None, description="Column that identifies the item.")
    item_columns: tuple[ColumnName, ...] = Field(
        default=(),
        description="Columns of the log that describe the item, such as its price, in addition to `item`, columns joined on it "
        "and the columns of `label.negatives.recent`. Rankings in reports and the service take them from the item's last row.",
    )
    session: Session | None = Field(default=None, description="Column that identifies the session, for rankings in reports.")
    dense: tuple[DenseColumn, ...] = Field(default=(), description="Features of numbers.")
    sparse: tuple[SparseColumn, ...] = Field(min_length=1, description="Features of ids.")
    join: tuple[SideTable, ...] = Field(default=(), description="Side tables whose columns are joined to the log.")
    feature_tables: tuple[FeatureTable, ...] = Field(
        default=(),
        description="Values of users, items or other entities, computed from the log's events before each row, which features "
        "use as columns.",
    )
    words: Words = Field(default=Words(), description="Words for labels in reports, for logs whose label is not a click.")
    slices: tuple[ColumnName, ...] = Field(
        default=(), description="Columns by whose most frequent values reports are broken down."
    )
    ranking: Ranking | None = Field(
        default=None,
        description="Ranking of the clicked item among all live items, in reports. Logs with sampled negatives have one by "
        "default; other logs with `item` and `user` enable it with `ranking: {}`.",
    )
    splits: Splits = Field(default=Splits(), description="Shares of a day for validation and test.")
    expectations: Expectations = Field(default=Expectations(), description="What a day's data should look like.")
    oracle: ColumnName | None = Field(default=None, description="Column with the true click probability of a simulated log.")
    simulation: Simulation | None = Field(default=None, description="Settings of a log that Evergreen simulates.")
    models: dict[ModelName, ModelChoice] = Field(
        default={"dlrm": ModelChoice()},
        min_length=1,
        description="Models to train, by name; the first is the primary one of reports.",
    )
    experiment: Experiment | None = Field(
        default=None, description="Models that the service shows to shares of its users (A/B test)."
    )
    recipe: RecipeOfAll = Field(default=RecipeOfAll(), description="Changes to the recipes of all models.")
    retune: Retune = Field(
        default=Retune(), description="When the checks `retune_<model>` warn that a recipe should be tuned again."
    )
    demo_days: Int = Field(default=4, ge=2, description="Number of days that `make demo` runs.")

    _starts_at: date | None = PrivateAttr(default=None)

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, data: Any) -> Any:
        return expand_entry(data)

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_log(self.source, self.time, self.partitions)
        check_actions(self)
        check_joins(self)
        check_labels(self)
        check_feature_tables(self)
        check_columns(self)
        check_types(self)
        check_users_and_items(self)
        if self.oracle and not self.simulation:
            raise fault("oracle", "only for simulated logs, whose true click probability is known")
        check_features(self)
        check_experiment(self)
        return self

    @property
    def label_rules(self) -> tuple[LabelRule, ...]:
        """How the labels are read from columns, the main label first; empty with sampled negatives."""
        return label_rules(self)

    @property
    def column_types(self) -> dict[str, ColumnType]:
        """Types of the examples' columns, of joined columns, and of those that are computed from earlier events.

        Lists, the `last` values of feature tables, are not among them.
        """
        types = self.source.columns | self.action_columns | self.joined_columns
        for name in self.label.negatives.recent if self.label.negatives else ():
            types[name] = "int"
        for value in self.table_values.values():
            if value.column_type is not None:
                types[value.name] = value.column_type
        return types

    @property
    def table_values(self) -> dict[str, FeatureValue]:
        """The values of all feature tables, by name."""
        return {value.name: value for table in self.feature_tables for value in table.values}

    def known_after(self, table: FeatureTable) -> int:
        """Returns the microseconds after its event time at which an event of a feature table is known."""
        if table.known_after_minutes is not None:
            return round(table.known_after_minutes * MICROSECONDS_PER_MINUTE)
        return self.actions.wait if self.actions and set(self.action_columns) & set(table.columns) else 0

    @property
    def reads_earlier_events(self) -> bool:
        """Whether features of a row depend on the rows before it: with sampled negatives or feature tables."""
        return self.label.negatives is not None or bool(self.feature_tables)

    @property
    def table_look_back_hours(self) -> float:
        """Hours before a row whose events feature tables need; 0 without tables."""
        return max((table.look_back_hours for table in self.feature_tables), default=0.0)

    @property
    def table_columns(self) -> dict[str, ColumnType]:
        """Types of the columns of the log that feature tables read, in the order of the log."""
        used = {column for table in self.feature_tables for column in table.columns}
        return {name: kind for name, kind in (self.source.columns | self.action_columns).items() if name in used}

    @property
    def action_columns(self) -> dict[str, ColumnType]:
        """Types of the columns that the joiner adds to impressions: labels and their delays. Empty without `actions`."""
        return self.actions.columns if self.actions else {}

    @property
    def joined_columns(self) -> dict[str, ColumnType]:
        """Types of the columns that side tables add to the log."""
        return {column: table.source.columns[column] for table in self.join for column in table.columns}

    @property
    def item_feature(self) -> str | None:
        """Name of the sparse feature that holds the hashed item; None without one."""
        return self.feature_of(self.item) if self.item else None

    def feature_of(self, column: str) -> str | None:
        """Returns the name of the sparse feature that holds a column's hashed values; None without one."""
        plain = (f for f in self.sparse if f.column == column and not (f.split or f.bucketise or f.vocabulary or f.ids_of))
        return next((feature.name for feature in plain), None)

    def history_of(self, feature: SparseColumn) -> tuple[str, int]:
        """Returns what a history feature lists: a column of the log, and the maximum number of its values.

        Raises:
            ValueError: The feature is no history.
        """
        if isinstance(feature.history, int) and self.item is not None:
            return self.item, feature.history
        value = self.table_values.get(feature.history) if isinstance(feature.history, str) else None
        if value is None or value.last is None:
            raise ValueError(f"{self.name}: the feature {feature.name!r} is no history")
        return value.last.column, value.last.most

    @property
    def ranked(self) -> Ranking | None:
        """How reports rank items, with `live_hours` filled in; None if they do not."""
        negatives = self.label.negatives
        asked = self.ranking or (Ranking() if negatives else None)
        default = negatives.window_hours if negatives else 24.0
        return asked and (asked if asked.live_hours else asked.model_copy(update={"live_hours": min(default, 168.0)}))

    @property
    def primary(self) -> str:
        """Name of the primary model, the first, which reports describe in full."""
        return next(iter(self.models))

    @property
    def log(self) -> LogSpec:
        """Where the dataset's log is stored and how it is read: all that `ml.logs` needs. With `actions`, of impressions."""
        main, further = label_columns(self, self.source.columns)
        return LogSpec(
            dataset=self.name,
            source=self.source,
            time=self.time,
            partitions=self.partitions,
            label=main,
            further_labels=further,
            weight=self.label.weight if self.label.weight in self.source.columns else None,
            simulation=self.simulation,
        )

    @property
    def actions_log(self) -> LogSpec | None:
        """The log of actions; None if the dataset has one log."""
        return self.actions.log(self.log) if self.actions else None

    @property
    def examples_log(self) -> LogSpec:
        """The log that features are computed from: the dataset's log, or the examples that its two logs are joined to."""
        if self.actions is None:
            return self.log
        main, further = label_columns(self, self.source.columns | self.action_columns)
        return self.actions.examples_log(self.log).model_copy(
            update={"label": main, "further_labels": further, "weight": self.label.weight}
        )

    @property
    def live_hours(self) -> float:
        """For how many hours after a row its item can be recommended."""
        return (self.ranked or Ranking()).live_hours or 24.0

    @property
    def zone(self) -> ZoneInfo:
        """The time zone that defines days."""
        return self.log.zone

    def days(self, last: date | None = None) -> list[str]:
        """Lists the partition keys (`YYYY-MM-DD`) of the log, in order; see `LogSpec.days`."""
        return self.log.days(last)

    def previous_day(self, day: str) -> str | None:
        """Returns the day before `day`.

        Args:
            day: One of the dataset's days.

        Returns:
            The day before, or None for the first day (`first_day`).

        Raises:
            ValueError: `day` is not one of the dataset's days.
        """
        first, last, asked = self.partitions.start, self.partitions.end, date.fromisoformat(day)
        if asked < first or (last is not None and asked > last):
            raise ValueError(f"{self.name} has no day {day}: its days are {first} to {last or 'today'}")
        return None if day == self.first_day else day_before(day)

    @property
    def first_day(self) -> str:
        """The day that starts from nothing: the log's first, unless `starting_at` names another."""
        return (self._starts_at or self.partitions.start).isoformat()

    def starting_at(self, day: str) -> Self:
        """Returns a copy whose models, vocabularies and windows begin with `day`, as if there were no earlier day.

        Days and fingerprints are unchanged, so later days can be made with or without it.

        Args:
            day: One of the dataset's days.

        Raises:
            ValueError: `day` is not one of the dataset's days.
        """
        self.previous_day(day)  # raises
        copy = self.model_copy()
        copy._starts_at = date.fromisoformat(day)
        return copy

    @property
    def fingerprint(self) -> str:
        """Hash of everything that shapes features. Data written under one fingerprint is refused under another."""
        # Without feature tables the hash is the one of entries from before there were any.
        shaping = _SHAPES_FEATURES if self.feature_tables else _SHAPES_FEATURES - {"feature_tables"}
        skipped: dict[str, set[str] | bool] = {key: True for key in set(type(self).model_fields) - shaping}
        features = hash_of(self, skipped | {"label": {"weight"}})
        return hashlib.sha256(f"{_IDS} {self.examples_log.fingerprint} {features}{labels_hash(self)}".encode()).hexdigest()[:16]

    def fingerprint_of(self, stage: str) -> str:
        """Returns the fingerprint of a stage's partitions: a log's for rows and events, the dataset's for later stages."""
        if stage == FEATURE_TABLES:  # the events, from which any values can be computed
            return self.events_fingerprint(self.table_columns)
        logs = (self.log, self.examples_log, self.actions_log)
        return next((log.fingerprint for log in logs if log and log.stage == stage), self.fingerprint)

    def events_fingerprint(self, columns: Mapping[str, ColumnType]) -> str:
        """Returns the fingerprint of events with some columns of the log, given with their types in order."""
        return hashlib.sha256(f"{self.examples_log.fingerprint} {json.dumps(dict(columns))}".encode()).hexdigest()[:16]


# Version of how values become ids and rows get their sampling rates. Increase it with either, so that features are not mixed.
_IDS = 3
_SHAPES_FEATURES = {"label", "user", "item", "session", "dense", "sparse", "join", "feature_tables", "splits"}
