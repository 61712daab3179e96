"""How the values of a source are written, where that differs from the type of their column.

Declarations only. `ml.logs.typed_columns` converts the values.
"""

from __future__ import annotations

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


def check_both_unsigned(one: tuple[str, str, str, Source], other: tuple[str, str, str, Source]) -> None:
    """Checks that two columns whose values are compared both have unsigned ids, or neither. Raises a fault that names the key.

    Args:
        one: Path of the key `unsigned` of a source, what the source is, its column, and the source.
        other: The same of the other source.
    """
    sides = {name in (source.unsigned or ()): (path, where, name) for path, where, name, source in (one, other)}
    if len(sides) == 2:
        (_, where, has), (path, elsewhere, lacks) = sides[True], sides[False]
        raise fault(path, f"{has!r} of {where} has unsigned ids, but {lacks!r} of {elsewhere} has not; add {lacks!r}")
