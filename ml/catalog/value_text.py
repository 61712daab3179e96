"""How the values of a source are written, where that differs from the type of their column.

Declarations only. `ml.logs.typed_columns` converts the values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from ml.catalog.strict import fault

if TYPE_CHECKING:
    from ml.catalog.reading import ColumnType, Source

DELIMITED = ("csv", "tsv")


def element_type(kind: ColumnType) -> ColumnType | None:
    """Returns the type of the elements of a list, such as `int` for `list<int>`; None if the type is no list.

    >>> element_type("list<int>"), element_type("int")
    ('int', None)
    """
    return cast("ColumnType", kind[len("list<") : -1]) if kind.startswith("list<") else None


def held_in_file(source: Source) -> dict[str, ColumnType]:
    """Returns the types as which the reader of a file reads each column: text, if its values are not written as its type."""
    return {name: as_text(kind) if _is_text(source, name, kind) else kind for name, kind in source.columns.items()}


def _is_text(source: Source, name: str, kind: ColumnType) -> bool:
    if source.format == "parquet":  # its values have types, and texts among them are converted when they are read
        return False
    is_int = (element_type(kind) or kind) == "int"
    return (source.trim and source.format in DELIMITED) or (is_int and (source.decimal_ints or name in (source.unsigned or ())))


def as_text(kind: ColumnType) -> ColumnType:
    """Returns the type of texts that hold values of a type."""
    return "list<string>" if element_type(kind) else "string"


def check_values(source: Source) -> None:
    """Checks the keys of how values are written. Raises a fault that names the key below the source."""
    for i, column in enumerate(source.unsigned or ()):
        if column not in source.columns:
            raise fault(f"unsigned.{i}", f"no column {column!r}; the columns are {list(source.columns)}")
        if (kind := source.columns[column]) not in ("int", "list<int>"):
            raise fault(f"unsigned.{i}", f"{column!r} is {kind}, expected int or list<int>")
    if source.decimal_ints and not {"int", "list<int>"} & set(source.columns.values()):
        raise fault("decimal_ints", "no column is int or list<int>")


@dataclass(frozen=True)
class ComparedColumn:
    """A column whose values are compared with those of another one.

    Attributes:
        key: Path of the key `unsigned` of its source in the entry.
        owner: What the source is, for messages.
        name: The column.
        source: The source.
    """

    key: str
    owner: str
    name: str
    source: Source

    @property
    def is_unsigned(self) -> bool:
        """Whether its ids are unsigned."""
        return self.name in (self.source.unsigned or ())


def check_both_unsigned(one: ComparedColumn, other: ComparedColumn) -> None:
    """Checks that two columns both have unsigned ids, or neither. Raises a fault that names the key of the one that has not."""
    if one.is_unsigned == other.is_unsigned:
        return
    has, lacks = (one, other) if one.is_unsigned else (other, one)
    found = f"{has.name!r} of {has.owner} has unsigned ids, but {lacks.name!r} of {lacks.owner} has not"
    raise fault(lacks.key, f"{found}; add {lacks.name!r}")
