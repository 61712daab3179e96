"""The model of one log: where its files are stored and how they are read, without features and labels.

`ml.logs` needs only the `LogSpec` of a dataset. A dataset has one log (`DatasetSpec.log`) or two, impressions and actions. Each
names the stage of the lake that its days are written to.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import date
from typing import Any, Self, cast
from zoneinfo import ZoneInfo

from pydantic import BaseModel, Field, model_validator

from ml.catalog.expand import expand_entry
from ml.catalog.reading import ColumnName, Partitions, Simulation, Source, Time
from ml.catalog.row_shape import field_of
from ml.catalog.strict import Bool, Scalar, Strict, fault, is_none
from ml.days import days_between
from ml.stages import RAW_LOGS

RESERVED_COLUMNS = ("event_time", "sample_rate", "row")


class LabelColumn(Strict):
    """The column of a log that holds the label. Rows whose label cannot be used are quarantined when the log is read."""

    column: ColumnName = Field(description="Column of the log; a row in which it is missing is quarantined.")
    binary: Bool = Field(
        default=True,
        description="Whether values other than 0 and 1, or than words for them in text, are quarantined too.",
    )
    known: tuple[Scalar, ...] | None = Field(
        default=None, exclude_if=is_none, description="Values other than these are quarantined too."
    )


class LogSpec(Strict):
    """One log of a dataset: its files, columns, event time and days.

    Example:
        >>> log = LogSpec(
        ...     dataset="shop",
        ...     stage="raw_actions",
        ...     source={"files": "actions/*.csv", "format": "csv", "columns": {"time": "int", "item": "int"}},
        ...     time={"column": "time", "unit": "ms"},
        ...     partitions={"start": "2026-03-01", "end": "2026-03-31"},
        ... )
        >>> log.days()[:2]
        ['2026-03-01', '2026-03-02']
    """

    dataset: str = Field(description="Name of the dataset that the log belongs to.")
    stage: str = Field(default=RAW_LOGS, pattern=r"^[a-z][a-z0-9_]*$", description="Stage of the lake that holds its days.")
    source: Source = Field(description="Where the files are and how a line becomes typed columns.")
    time: Time = Field(description="When a row happened.")
    partitions: Partitions = Field(description="The log's days.")
    label: LabelColumn | None = Field(default=None, description="Column with the label, if the log has one.")
    further_labels: tuple[LabelColumn, ...] = Field(default=(), description="Columns with further labels.")
    weight: ColumnName | None = Field(
        default=None,
        description="Column with sample weights; a row whose weight is missing, negative or infinite is quarantined.",
    )
    simulation: Simulation | None = Field(default=None, description="Settings of a log that Evergreen writes itself.")
    joined_from: str = Field(
        default="",
        description="Hash of the logs that its rows are joined from, and how; empty for a log that is read from files.",
    )

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, data: Any) -> Any:
        return expand_entry(data)

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_log(self.source, self.time, self.partitions)
        if self.label and self.label.column not in self.source.columns:
            raise fault("label.column", f"no column {self.label.column!r}; the columns are {sorted(self.source.columns)}")
        return self

    @property
    def label_columns(self) -> tuple[LabelColumn, ...]:
        """The columns of all labels, the main label first."""
        return ((self.label,) if self.label else ()) + self.further_labels

    @property
    def zone(self) -> ZoneInfo:
        """The time zone that defines days."""
        return ZoneInfo(self.time.timezone)

    def days(self, last: date | None = None) -> list[str]:
        """Lists the log's partition keys in order.

        Args:
            last: The last day of a live log. Ignored for a log with `partitions.end`.

        Returns:
            Keys such as `2026-03-01`, the first and the last day included.

        Raises:
            ValueError: The log is live and `last` is missing.
        """
        end = self.partitions.end or last
        if end is None:
            raise ValueError(f"{self.dataset}: the log is live (no partitions.end), so pass its last day to list its days")
        return days_between(self.partitions.start.isoformat(), end.isoformat())

    @property
    def fingerprint(self) -> str:
        """Hash of everything that shapes raw rows. Days written under one fingerprint are stale under another.

        The last day is excluded, so that a log can grow by a day, unless event times come from positions: then the number of
        days changes every day.
        """
        if self.joined_from:
            return self.joined_from
        days = {"missing_days"} if self.time.by_position else {"end", "missing_days"}
        # Keys that came later are excluded where an entry does not have them, so that days written before stay current.
        absent = {name for name in ("format", "clock") if getattr(self.time, name) is None}
        unset: dict[str, set[str] | bool] = {key: True for key in ("further_labels", "weight") if not getattr(self, key)}
        values = hash_of(self, {"partitions": days, "joined_from": True, "time": absent} | unset)
        is_nan_missing = self.source.format == "parquet" and any(t.strip().lower() == "nan" for t in self.source.null_tokens)
        return hashlib.sha256(f"{_READING}{' nan' * is_nan_missing} {values}".encode()).hexdigest()[:16]


# Version of how files become raw rows. Increase it when the same files and the same entry give other rows.
_READING = 3


def hash_of(model: BaseModel, exclude: Mapping[str, Any] | set[str]) -> str:
    """Returns a hash of a model's values as JSON: 16 hexadecimal digits."""
    values = model.model_dump(mode="json", exclude=cast(Any, exclude))
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def check_log(source: Source, time: Time, partitions: Partitions) -> None:
    """Checks that the parts of one log fit together. Raises a fault that names the key."""
    if reserved := sorted(set(source.columns) & set(RESERVED_COLUMNS)):
        raise fault(
            "source.columns", f"{reserved} are reserved names; give the columns other names, for headers with source.rename"
        )
    if time.by_position and partitions.end is None:
        raise fault("time.by_position", "needs partitions.end, because the log is divided into equal days")
    if partitions.missing_days == "skip" and not source.dated:
        raise fault("partitions.missing_days", "needs a dated path (strftime codes in source.files)")
    if time.by_position and source.dated:
        raise fault("time.by_position", "cannot be combined with a dated path in source.files")
    if time.by_position and source.explode:
        raise fault("source.explode", "not for a log without a clock (time.by_position), whose lines are counted and not read")
    if time.by_position and source.multiline:
        raise fault(
            "source.multiline", "not for a log without a clock (time.by_position), whose lines are counted and not read"
        )
    if time.column is None:
        return
    reading = "time.format" if time.format else f"unit {time.unit}"
    wanted = ("string",) if time.is_text else ("int", "float", "string")
    for key, column in (("time.column", time.column), ("time.clock", time.clock)):
        if column is None:
            continue
        if column not in source.columns:
            raise fault(key, f"no column {column!r}; the columns are {sorted(source.columns)}")
        if column in field_of(source):
            raise fault(key, f"{column!r} differs between the elements of a line (source.explode); a line has one time")
        if column in (source.unsigned or ()):
            raise fault("source.unsigned", f"{column!r} is a time (time.column), and not an id")
        if (kind := source.columns[column]) not in wanted:
            raise fault(key, f"{column!r} is {kind}; {reading} needs {' or '.join(wanted)}")
