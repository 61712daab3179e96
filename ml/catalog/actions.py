"""Catalog keys of a dataset with two logs: how actions, such as clicks, are joined to the impressions that they belong to.

Declarations only. `ml.joiner` joins the logs, and `ml.logs` reads them.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field, model_validator

from ml.catalog.kafka import Kafka, check_kafka
from ml.catalog.log_spec import RESERVED_COLUMNS, LogSpec, check_log, hash_of
from ml.catalog.reading import ColumnName, ColumnType, Source, Time
from ml.catalog.strict import Float, Strict, fault
from ml.catalog.value_text import ComparedColumn, check_both_unsigned
from ml.days import MICROSECONDS_PER_HOUR, MICROSECONDS_PER_MINUTE
from ml.stages import JOINED_EXAMPLES, RAW_ACTIONS

if TYPE_CHECKING:
    from ml.catalog.spec import DatasetSpec

_JOINING = 1  # increase it when the same logs and the same entry give other examples
_KEY_TYPES = ("int", "string", "bool")


class ActionLabel(Strict):
    """A label: 1 if the user acted within the wait after the impression, 0 if not."""

    types: tuple[str, ...] = Field(
        default=(), description="Types of the actions that count, as text; needed if `actions.type` names a column."
    )
    weights: dict[str, Annotated[Float, Field(gt=0)]] = Field(
        default={},
        description="Weights of types, such as `{buy: 5}`; other types weigh 1. Examples then have a column `<name>_weight`: "
        "the largest weight of an action that counts, 1 without one.",
    )
    within_minutes: Float | None = Field(default=None, gt=0, le=43_200, description="The wait, in minutes.")
    within_hours: Float | None = Field(default=None, gt=0, le=720, description="The wait, in hours, instead of minutes.")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.within_minutes is None) == (self.within_hours is None):
            raise fault("", "give either within_minutes or within_hours")
        if unknown := sorted(set(self.weights) - set(self.types)):
            raise fault("weights", f"{unknown} are not among the types {list(self.types)}")
        return self

    @property
    def wait(self) -> int:
        """Microseconds after the impression, exclusive, in which an action counts."""
        if self.within_minutes is not None:
            return max(round(self.within_minutes * MICROSECONDS_PER_MINUTE), 1)
        return max(round((self.within_hours or 0) * MICROSECONDS_PER_HOUR), 1)


class Actions(Strict):
    """The log of actions, and how actions become labels of impressions. The entry's own log then has the impressions."""

    source: Source = Field(description="Where the files of actions are and how they are read, as for the log itself.")
    time: Time = Field(description="Event time of an action, in the time zone of the impressions.")
    key: tuple[ColumnName, ...] = Field(
        min_length=1,
        description="Columns that both logs have and that together identify an impression, such as a request and an item. "
        "Columns of other names are given these by `rename`.",
    )
    type: ColumnName | None = Field(
        default=None, description="Column with the type of an action; without it, all actions are of one type."
    )
    lateness_minutes: Float = Field(
        default=60.0,
        ge=0,
        le=10_080,
        description="Minutes by which an event may arrive after newer events in a stream. An example is written once an "
        "event has arrived that is newer than the end of its wait by this time; an event that arrives later is "
        "counted and left out, and the daily catch-up includes it.",
    )
    labels: dict[ColumnName, ActionLabel] = Field(
        min_length=1,
        description="Columns of 0 and 1 that examples have beside the columns of the impressions. Each comes with a column "
        "`<name>_delay`: seconds to the first action that counts, missing without one.",
    )
    kafka: Kafka | None = Field(
        default=None, description="Topics that the live join reads, instead of files that arrive in the folders of the stream."
    )

    @property
    def wait(self) -> int:
        """The longest wait of the labels, in microseconds. The label of an example is final after it."""
        return max(label.wait for label in self.labels.values())

    @property
    def lateness(self) -> int:
        """`lateness_minutes` in microseconds."""
        return round(self.lateness_minutes * MICROSECONDS_PER_MINUTE)

    @property
    def columns(self) -> dict[str, ColumnType]:
        """Types of the columns that examples have beside the columns of the impressions."""
        types: dict[str, ColumnType] = {}
        for label in self.labels:
            types |= {label: "int", delay_column(label): "float"}
            if self.labels[label].weights:
                types[weight_column(label)] = "float"
        return types

    def log(self, impressions: LogSpec) -> LogSpec:
        """Returns the log of actions.

        Args:
            impressions: The log of impressions, whose days and time zone the actions share.
        """
        partitions = impressions.partitions
        if not self.source.dated:
            partitions = partitions.model_copy(update={"missing_days": "error"})
        return LogSpec(
            dataset=impressions.dataset,
            stage=RAW_ACTIONS,
            source=self.source,
            time=self.time.model_copy(update={"timezone": impressions.time.timezone}),
            partitions=partitions,
        )

    def examples_log(self, impressions: LogSpec) -> LogSpec:
        """Returns the log of examples: Parquet with the columns of the impressions and the labels.

        Args:
            impressions: The log of impressions.
        """
        # (an entry without weights has the hash from before there were any)
        plain = {name: {"weights"} for name, label in self.labels.items() if not label.weights}
        rules = hash_of(self, {"source": True, "time": True, "lateness_minutes": True, "kafka": True, "labels": plain})
        logs = f"{impressions.fingerprint} {self.log(impressions).fingerprint}"
        source = impressions.source
        return impressions.model_copy(
            update={
                "stage": JOINED_EXAMPLES,
                "source": Source(files="*.parquet", format="parquet", columns={**source.columns, **self.columns}),
                "partitions": impressions.partitions.model_copy(update={"missing_days": "error"}),
                "joined_from": hashlib.sha256(f"{_JOINING} {logs} {rules}".encode()).hexdigest()[:16],
            }
        )


def delay_column(label: str) -> str:
    """Returns the column with the seconds from an impression to the first action that counts for a label."""
    return f"{label}_delay"


def weight_column(label: str) -> str:
    """Returns the column with the weight of an example for a label whose types have weights."""
    return f"{label}_weight"


def check_actions(spec: DatasetSpec) -> None:
    """Checks that the log of actions fits the log of impressions. Raises a fault that names the key."""
    actions = spec.actions
    if actions is None:
        return
    if spec.label.negatives:
        raise fault("actions", "a log of positives (label.negatives) has no impressions to join actions to")
    if spec.simulation:
        raise fault("actions", "a simulated log has its label already")
    for key, time in (("time", spec.time), ("actions.time", actions.time)):
        if time.by_position:
            raise fault(f"{key}.by_position", "joining actions needs the event times of both logs: give column")
    if "timezone" in actions.time.model_fields_set and actions.time.timezone != spec.time.timezone:
        raise fault("actions.time.timezone", f"expected {spec.time.timezone!r}, as time.timezone has, or no key")
    if _same_files(actions.source, spec.source):
        raise fault("actions.source.files", f"{actions.source.files!r} are also the files of the impressions")
    try:
        partitions = spec.partitions.model_copy(update={} if actions.source.dated else {"missing_days": "error"})
        check_log(actions.source, actions.time, partitions)
    except ValueError as error:
        raise _below_actions(error) from error
    if actions.kafka is not None:
        check_kafka(actions.kafka, spec.source, actions.source)
    _check_key(spec, actions)
    _check_labels(spec, actions)


def _same_files(one: Source, other: Source) -> bool:
    return (one.files, one.members) == (other.files, other.members)


def _below_actions(error: ValueError) -> ValueError:
    """Returns the fault with its key below `actions`."""
    context = getattr(error, "context", None)
    return fault(f"actions.{context['key']}", context["what"]) if context else error


def _check_key(spec: DatasetSpec, actions: Actions) -> None:
    for i, column in enumerate(actions.key):
        for where, columns in (("the impressions", spec.source.columns), ("the actions", actions.source.columns)):
            if column not in columns:
                raise fault(f"actions.key.{i}", f"no column {column!r} in {where}; the columns are {sorted(columns)}")
        here, there = actions.source.columns[column], spec.source.columns[column]
        if here != there:
            raise fault(f"actions.source.columns.{column}", f"is {here}, but {column!r} of the impressions is {there}")
        if here not in _KEY_TYPES:
            raise fault(f"actions.key.{i}", f"{column!r} is {here}, expected a column of {' or '.join(_KEY_TYPES)}")
        check_both_unsigned(
            ComparedColumn("source.unsigned", "the impressions", column, spec.source),
            ComparedColumn("actions.source.unsigned", "the actions", column, actions.source),
        )
    if len(set(actions.key)) < len(actions.key):
        raise fault("actions.key", "a column is named more than once")


def _check_labels(spec: DatasetSpec, actions: Actions) -> None:
    if actions.type is not None:
        kind = actions.source.columns.get(actions.type)
        if kind is None:
            raise fault("actions.type", f"no column {actions.type!r}; the columns are {sorted(actions.source.columns)}")
        if kind not in ("string", "int"):
            raise fault("actions.type", f"{actions.type!r} is {kind}, expected a column of string or int")
    for name, label in actions.labels.items():
        if actions.type is None and label.types:
            raise fault(f"actions.labels.{name}.types", "needs actions.type, the column with the type of an action")
        if actions.type is not None and not label.types:
            raise fault(f"actions.labels.{name}.types", f"name the types of {actions.type!r} that count")
        uses = {name: "column", delay_column(name): "delay"} | ({weight_column(name): "weight"} if label.weights else {})
        for column, use in uses.items():
            if column in spec.source.columns:
                raise fault(f"actions.labels.{name}", f"would hide the column {column!r} of the impressions")
            if column in RESERVED_COLUMNS:
                raise fault(f"actions.labels.{name}", f"{column!r} is a reserved name; rename the label")
            if column != name and column in actions.labels:
                raise fault(f"actions.labels.{column}", f"is also the {use} of the label {name!r}; rename one of them")
