"""How a log is read, as the catalog declares it: files, columns, time, side tables, days, and the simulation of a log.

Declarations only; reading lives in `ml.logs`. What becomes of the columns is `ml.catalog.features`.
"""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from ml.catalog.expand import expand_mapping
from ml.catalog.strict import Bool, Float, Int, Strict, fault

ColumnType = Literal["int", "float", "string", "bool"]
ColumnName = Annotated[str, StringConstraints(min_length=1, max_length=200)]

DATE_CODES = ("%Y", "%y", "%m", "%d", "%j", "%b", "%B", "%H", "%M", "%S", "%%")
MAX_DAYS = 36_525  # a hundred years


def _is_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:  # unknown, not a relative path, a folder of zones
        raise fault("", f"not an IANA time zone such as 'UTC' or 'America/Sao_Paulo': {name!r:.80}") from error
    return name


class Source(Strict):
    """Where log lines lie and how one is cut into typed columns."""

    files: str = Field(
        min_length=1,
        description="Glob below the dataset's landing folder. May hold strftime codes (`%Y-%m-%d`): then a file's day is known "
        "from its path.",
    )
    members: str = Field(default="*", min_length=1, description="Glob of member names, for zip archives.")
    format: Literal["csv", "tsv", "jsonl", "parquet"] = Field(
        description="What a file holds; plain, gzipped (`.gz`) or members of a zip (`.zip`), as its name says."
    )
    header: Bool = Field(default=False, description="Whether each file (and zip member) begins with a header line.")
    columns: dict[ColumnName, ColumnType] = Field(
        min_length=1, description="Names in file order, with types. `I{1..13}: int` stands for thirteen columns."
    )
    rename: dict[str, ColumnName] = Field(
        default={}, description="Name in the file's header (or JSON key) -> name in `columns`."
    )
    separator: str | None = Field(
        default=None, pattern=r"^[\t -~]$", description="Overrides the format's own: a comma for csv, a tab for tsv."
    )
    quoted: Bool = Field(default=False, description="Whether CSV fields may be quoted with double quotes.")
    null_tokens: tuple[str, ...] = Field(default=("",), description="Texts that stand for a missing value.")
    encoding: Literal["utf-8", "latin-1"] = Field(default="utf-8", description="Of the text in the files.")
    spill_days: Int = Field(
        default=0, ge=0, le=7, description="With a dated path: how many days a row may lie from its file's day."
    )

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, data: Any) -> Any:
        return expand_mapping(data, "columns")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.quoted and self.format not in ("csv", "tsv"):
            raise fault("quoted", f"only csv and tsv have quotes, this is {self.format}")
        if self.separator and self.format not in ("csv", "tsv"):
            raise fault("separator", f"only csv and tsv have one, this is {self.format}")
        if self.separator and (self.separator in "\r\n" or (self.quoted and self.separator == '"')):
            raise fault("separator", f"{self.separator!r} ends a line or a quoted field; expected another character")
        if unknown := sorted(set(self.rename.values()) - set(self.columns)):
            raise fault("rename", f"{unknown} not among columns {list(self.columns)}")
        if twice := sorted({name for name in self.rename.values() if list(self.rename.values()).count(name) > 1}):
            raise fault("rename", f"more than one name of the file becomes {twice}")
        if self.spill_days and not self.dated:
            raise fault("spill_days", "needs a dated path (strftime codes in files)")
        if self.files.startswith("/") or ".." in self.files.split("/"):
            raise fault("files", f"{self.files!r} leads out of the landing folder; expected a glob below it")
        codes = re.findall(r"%.?", self.files)
        if unknown := [code for code in codes if code not in DATE_CODES]:
            raise fault("files", f"{unknown} are no strftime codes of a day; expected some of {list(DATE_CODES)}")
        if self.dated and not any(known <= {*codes} for known in _DAYS):
            raise fault(
                "files", f"{self.files!r} does not say a whole day; expected year, month and day (%Y, %m, %d) or %Y and %j"
            )
        return self

    @property
    def dated(self) -> bool:
        """Whether a file's day is known from its path."""
        return "%" in self.files.replace("%%", "")

    @property
    def delimiter(self) -> str:
        return self.separator or {"csv": ",", "tsv": "\t"}.get(self.format, "")


_DAYS = [{y, m, "%d"} for y in ("%Y", "%y") for m in ("%m", "%b", "%B")] + [{y, "%j"} for y in ("%Y", "%y")]


class Time(Strict):
    """When a row happened: a column, or equal parts of the whole log by position."""

    column: ColumnName | None = Field(default=None, description="Column with the event's time; or else `by_position: true`.")
    unit: Literal["s", "ms", "us", "ns", "iso8601"] = Field(
        default="s", description="Of the column: counted since 1970-01-01 UTC, or a text such as 2025-03-01T10:00:00+01:00."
    )
    timezone: Annotated[str, AfterValidator(_is_zone)] = Field(default="UTC", description="A day is a day in this zone.")
    by_position: Bool = Field(
        default=False,
        description="No clock in the log: the partition range's days are equal parts of it, in file order, and event times are "
        "spread evenly over each.",
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.column is None) == (not self.by_position):
            raise fault("", "give either column, or by_position: true")
        return self


class SideTable(Strict):
    """A table joined to the log on one column: item titles, user ages. Left join; the log's rows and order stay."""

    source: Source = Field(description="Where the table lies and how it is read, like the log itself.")
    log_key: ColumnName = Field(description="Column of the log that the table is looked up by.")
    table_key: ColumnName = Field(description="Column of the table that it is looked up in; a key may be there once.")
    columns: tuple[ColumnName, ...] = Field(min_length=1, description="Columns of the table that become columns of the log.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        have = sorted(self.source.columns)
        if self.table_key not in have:
            raise fault("table_key", f"{self.table_key!r} not among source.columns {have}")
        if unknown := sorted(set(self.columns) - set(have)):
            raise fault("columns", f"{unknown} not among source.columns {have}")
        return self


class Partitions(Strict):
    """The days of the log, both ends included; without an end it is live."""

    start: date = Field(description="First day, as 2025-03-01.")
    end: date | None = Field(default=None, description="Last day; absent: the log is live and goes on.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.end and self.end < self.start:
            raise fault("end", f"{self.end} is before start {self.start}; expected the same day or a later one")
        if self.end and (self.end - self.start).days >= MAX_DAYS:
            raise fault("end", f"{self.end} is far after start {self.start}; expected at most {MAX_DAYS} days")
        return self


class Simulation(Strict):
    """A generator writes the landing files of this dataset (`ml.logs.synthetic.simulate`): simulated, and said so."""

    seed: Int = Field(default=0, ge=0, description="The same seed gives the same log.")
    impressions_per_day: Int = Field(default=200_000, ge=1, description="Rows a day.")
    users: Int = Field(default=50_000, ge=1, description="Users of the whole log.")
    items: Int = Field(default=5_000, ge=1, description="Items alive on any one day.")
    malformed_rate: Float = Field(default=0.0005, ge=0, le=0.5, description="Share of lines that are damaged on purpose.")
