"""Catalog keys that say how files are read: columns, time, days, side tables, and the simulation of a log.

Declarations only. `ml.logs` reads the files; `ml.catalog.log_spec` combines the keys of one log; `ml.catalog.features` declares
what is learned from its columns.
"""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from ml.catalog.row_shape import check_shape, in_file
from ml.catalog.strict import Bool, Float, Int, Strict, fault, is_false, is_none
from ml.catalog.time_format import compile_format
from ml.catalog.value_paths import check_paths
from ml.catalog.value_text import check_values

ColumnType = Literal["int", "float", "string", "bool", "list<int>", "list<float>", "list<string>", "list<bool>"]
ColumnName = Annotated[str, StringConstraints(min_length=1, max_length=200)]

_OF_TYPE: dict[str, type | tuple[type, ...]] = {"int": int, "float": (int, float), "string": str, "bool": bool}


def is_of_type(value: object, kind: ColumnType) -> bool:
    """Whether a value of a catalog entry can be a value of a column. True and false are no integers."""
    return isinstance(value, _OF_TYPE.get(kind, ())) and (kind == "bool" or not isinstance(value, bool))


DATE_CODES = ("%Y", "%y", "%m", "%d", "%j", "%b", "%B", "%H", "%M", "%S", "%%")
MAX_DAYS = 36_525  # a hundred years


def _is_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:  # unknown, an absolute path, a folder of zones
        raise fault("", f"expected an IANA time zone such as 'UTC' or 'America/Sao_Paulo', found {name!r:.80}") from error
    return name


class Source(Strict):
    """Where files are, and how a line becomes typed columns."""

    files: str = Field(
        min_length=1,
        description="Glob below the dataset's landing folder. With strftime codes (`%Y-%m-%d`), a file's path gives its day.",
    )
    members: str = Field(default="*", min_length=1, description="Glob of member names in zip archives.")
    format: Literal["csv", "tsv", "jsonl", "parquet"] = Field(
        description="Format of the files. They can be plain, compressed (`.gz`, `.zst`, `.bz2`, `.xz`, `.lz4`) or members of a "
        "`.zip`, by their names."
    )
    header: Bool = Field(default=False, description="Whether each file (or zip member) begins with a header line.")
    columns: dict[ColumnName, ColumnType] = Field(
        min_length=1,
        description="Names in file order, with types. `I{1..13}: int` declares thirteen columns. A list, such as "
        "`list<string>` or `list<int>`, is read by sparse features with several ids.",
    )
    rename: dict[str, ColumnName] = Field(
        default={}, description="Mapping of names in a file's header (or JSON keys) to names in `columns`."
    )
    paths: dict[ColumnName, Annotated[str, StringConstraints(pattern=r"^[^.]+(\.[^.]+)+$")]] | None = Field(
        default=None,
        min_length=1,
        exclude_if=is_none,
        description="Columns whose value is within an object of JSON or a struct of Parquet, with the path of its keys: "
        "`{user_id: user.id}`.",
    )
    separator: str | None = Field(
        default=None, pattern=r"^[\t -~]$", description="Field separator; by default a comma for csv and a tab for tsv."
    )
    quoted: Bool = Field(default=False, description="Whether fields can be enclosed in double quotes (csv and tsv).")
    multiline: Bool = Field(
        default=False,
        exclude_if=is_false,
        description="Whether quoted fields can contain line ends, up to 1 MiB a field. One process reads such a file, from its "
        "beginning, because a quote decides where rows end.",
    )
    list_separator: str | None = Field(
        default=None,
        min_length=1,
        exclude_if=is_none,
        description="Separator of the elements of lists that are one text, such as a blank; csv and tsv need it. Empty "
        "elements are dropped. Without it, lists are arrays of JSON or lists of Parquet.",
    )
    explode: dict[str, Annotated[tuple[ColumnName, ...], Field(min_length=1)]] | None = Field(
        default=None,
        min_length=1,
        exclude_if=is_none,
        description="Fields of the file with a list, each with the columns that an element gives, such as `{shown: [item, "
        "clicked]}`. Each element becomes a row, in which the other columns are those of the line. Several fields have lists "
        "of the same length. A field takes the place of the first of its columns. Where the elements are objects, `paths` "
        "leads to each column: `explode: {items: [item, clicked]}` with `paths: {item: items.id, clicked: items.clicked}`.",
    )
    part_separator: str | None = Field(
        default=None,
        min_length=1,
        exclude_if=is_none,
        description="Separator of the parts of an element that gives several columns, counted from the end of the element: "
        "with `-`, `n55-1` gives `n55` and `1`.",
    )
    path_columns: tuple[ColumnName, ...] | None = Field(
        default=None,
        min_length=1,
        exclude_if=is_none,
        description="Columns whose values are in the folders of a file, as Hive writes them: `country` is `de` for "
        "`country=de/part-0.csv`. `__HIVE_DEFAULT_PARTITION__` is a missing value.",
    )
    trim: Bool = Field(
        default=False,
        exclude_if=is_false,
        description="Whether blanks around values are removed, in elements of lists too, before null tokens are looked for.",
    )
    decimal_ints: Bool = Field(
        default=False,
        exclude_if=is_false,
        description="Whether ints can be written as `9.0`, as pandas writes them beside missing values: up to 15 digits, and "
        "only zeros behind the point.",
    )
    unsigned: tuple[ColumnName, ...] | None = Field(
        default=None,
        min_length=1,
        exclude_if=is_none,
        description="Columns of int or list<int> with unsigned 64-bit ids, such as hashes. An id from 2^63 on becomes the "
        "signed int with the same bits, which is the id less 2^64. In JSON, such ids can be numbers or texts.",
    )
    null_tokens: tuple[str, ...] = Field(
        default=("",), description="Texts that mean a missing value. `NaN` also means the NaN of floats in Parquet."
    )
    encoding: Literal["utf-8", "latin-1"] = Field(default="utf-8", description="Text encoding of the files.")
    spill_days: Int = Field(
        default=0, ge=0, le=7, description="With a dated path: maximum distance, in days, of a row's day from its file's day."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.quoted and self.format not in ("csv", "tsv"):
            raise fault("quoted", f"only for csv and tsv, but format is {self.format}")
        if self.multiline and not self.quoted:
            raise fault("multiline", "needs `quoted: true`: only quoted fields can contain line ends")
        if self.separator and self.format not in ("csv", "tsv"):
            raise fault("separator", f"only for csv and tsv, but format is {self.format}")
        if self.separator and (self.separator in "\r\n" or (self.quoted and self.separator == '"')):
            raise fault("separator", f"{self.separator!r} also ends a line or a quoted field; use another character")
        check_shape(self)
        check_values(self)
        fields = list(in_file(self).columns)
        if unknown := sorted(set(self.rename.values()) - set(fields)):
            raise fault("rename", f"{unknown} are not among source.columns {fields}")
        check_paths(self, fields)
        if twice := sorted({name for name in self.rename.values() if list(self.rename.values()).count(name) > 1}):
            raise fault("rename", f"more than one name of the file is renamed to {twice}")
        if self.rename and not self.header and self.format in ("csv", "tsv"):
            raise fault("rename", "needs `header: true`: without a header, names come from source.columns alone")
        if self.spill_days and not self.dated:
            raise fault("spill_days", "needs a dated path (strftime codes in files)")
        if self.files.startswith("/") or ".." in self.files.split("/"):
            raise fault("files", f"{self.files!r} is outside the landing folder; expected a glob below it")
        codes = re.findall(r"%.?", self.files)
        if unknown := [code for code in codes if code not in DATE_CODES]:
            raise fault("files", f"{unknown} are not supported strftime codes; expected some of {list(DATE_CODES)}")
        if self.dated and not any(known <= {*codes} for known in _DAYS):
            raise fault(
                "files", f"{self.files!r} does not give a whole day; expected year, month and day (%Y, %m, %d) or %Y and %j"
            )
        return self

    @property
    def dated(self) -> bool:
        """Whether a file's path gives its day."""
        return "%" in self.files.replace("%%", "")

    @property
    def delimiter(self) -> str:
        """The field separator; empty for formats without one."""
        return self.separator or {"csv": ",", "tsv": "\t"}.get(self.format, "")


_DAYS = [{y, m, "%d"} for y in ("%Y", "%y") for m in ("%m", "%b", "%B")] + [{y, "%j"} for y in ("%Y", "%y")]


class Time(Strict):
    """Event time of a row: a column, or by position in a log without event times."""

    column: ColumnName | None = Field(default=None, description="Column with the event time; give this or `by_position: true`.")
    unit: Literal["s", "ms", "us", "ns", "iso8601"] = Field(
        default="s",
        description="Unit of the column since 1970-01-01 UTC, or `iso8601` for text such as 2025-03-01T10:00:00+01:00.",
    )
    format: str | None = Field(
        default=None,
        min_length=1,
        description="strptime format of a column of text, such as `%m/%d/%Y %I:%M:%S %p`, in place of `unit`. Times without "
        "`%z` are in `timezone`; of the two hours in which clocks go back, they mean the first.",
    )
    clock: ColumnName | None = Field(
        default=None,
        description="A second column of text, with the time of day, if `column` has only the date. `format` reads both, with a "
        "blank between them.",
    )
    timezone: Annotated[str, AfterValidator(_is_zone)] = Field(default="UTC", description="Time zone that defines days.")
    by_position: Bool = Field(
        default=False,
        description="For a log without event times: its lines, in file order, are divided into equal days, with event times "
        "spread evenly over each day.",
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.column is None) == (not self.by_position):
            raise fault("", "give either column, or by_position: true")
        if self.format is not None:
            if self.column is None or "unit" in self.model_fields_set:
                raise fault("format", "reads the text of `column`; give it without by_position and without unit")
            try:
                compile_format(self.format)
            except ValueError as error:
                raise fault("format", f"{self.format!r}: {error}") from error
        if self.clock is not None and (self.format is None or self.clock == self.column):
            raise fault("clock", "needs `format` for both columns, and another column than `column`")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that event times are read from; none if they come from positions."""
        return tuple(name for name in (self.column, self.clock) if name is not None)

    @property
    def is_text(self) -> bool:
        """Whether event times are text that is not a number."""
        return self.format is not None or self.unit == "iso8601"


class SideTable(Strict):
    """A table joined to the log on one column, such as item titles. A left join: the log keeps its rows and their order."""

    source: Source = Field(description="Where the table is and how it is read, as for the log itself.")
    log_key: ColumnName = Field(description="Column of the log to join on.")
    table_key: ColumnName = Field(description="Column of the table to join on; each key must occur once.")
    columns: tuple[ColumnName, ...] = Field(min_length=1, description="Columns of the table that are added to the log.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        have = sorted(self.source.columns)
        if self.table_key not in have:
            raise fault("table_key", f"{self.table_key!r} is not among source.columns {have}")
        if unknown := sorted(set(self.columns) - set(have)):
            raise fault("columns", f"{unknown} are not among source.columns {have}")
        return self


class Partitions(Strict):
    """First and last day of the log, both included. Without an end the log is live."""

    start: date = Field(description="First day, such as 2025-03-01.")
    end: date | None = Field(default=None, description="Last day; without it, the log is live and grows every day.")
    missing_days: Literal["error", "skip"] = Field(
        default="error",
        description="With dated paths, the meaning of a day without a file: an error, or, with `skip`, a day without rows.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.end and self.end < self.start:
            raise fault("end", f"{self.end} is before start {self.start}; expected the same day or a later one")
        if self.end and (self.end - self.start).days >= MAX_DAYS:
            raise fault("end", f"{self.end} is too far after start {self.start}; expected at most {MAX_DAYS} days")
        return self


class Simulation(Strict):
    """Settings of a simulated log: Evergreen writes its landing files itself (`ml.logs.synthetic.simulate`)."""

    seed: Int = Field(default=0, ge=0, description="The same seed gives the same log.")
    impressions_per_day: Int = Field(default=200_000, ge=1, description="Rows per day.")
    users: Int = Field(default=50_000, ge=1, description="Number of users.")
    items: Int = Field(default=5_000, ge=1, description="Number of items that are alive on any one day.")
    malformed_rate: Float = Field(default=0.0005, ge=0, le=0.5, description="Share of lines that are corrupted on purpose.")
