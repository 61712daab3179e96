"""How the values of a source are written, where that differs from the type of their column.

Declarations only. `ml.logs.typed_columns` converts the values.
"""

from __future__ import annotations

from collections.abc import Iterable
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
    return {name: _as_text(kind) if _is_text(source, name, kind) else kind for name, kind in source.columns.items()}


def with_shared_keys(source: Source, fields: dict[str, ColumnType]) -> dict[str, ColumnType]:
    """Returns the types of the fields of a file, with text for numbers whose last key of a path is also that of a text.

    The reader of JSON makes texts of all numbers with such a key.
    """
    if source.paths is None or source.format != "jsonl":
        return fields
    keys = key_paths(source, fields)
    texts = {keys[name][-1] for name, kind in fields.items() if kind in ("string", "list<string>")}
    numbers = ("int", "float", "list<int>", "list<float>")
    return {name: _as_text(kind) if keys[name][-1] in texts and kind in numbers else kind for name, kind in fields.items()}


def key_paths(source: Source, fields: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Returns the keys of JSON, or the fields of Parquet, that lead to the value of each field of a source."""
    own, paths = {new: old for old, new in source.rename.items()}, source.paths or {}
    return {name: tuple(paths[name].split(".")) if name in paths else (own.get(name, name),) for name in fields}


def _is_text(source: Source, name: str, kind: ColumnType) -> bool:
    if source.format == "parquet":  # its values have types, and texts among them are converted when they are read
        return False
    is_int = (element_type(kind) or kind) == "int"
    return (source.trim and source.format in DELIMITED) or (is_int and (source.decimal_ints or name in (source.unsigned or ())))


def _as_text(kind: ColumnType) -> ColumnType:
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


def check_paths(source: Source, fields: Iterable[str]) -> None:
    """Checks the paths of columns. Raises a fault that names the key below the source.

    Args:
        source: The source.
        fields: The fields of its files.
    """
    if source.paths is None:
        return
    if source.format not in ("jsonl", "parquet"):
        raise fault("paths", f"only for jsonl and parquet, but format is {source.format}")
    fields = list(fields)
    for name in source.paths:
        if name not in fields:
            raise fault(f"paths.{name}", f"no column {name!r}; the columns are {fields}")
        if name in source.rename.values():
            raise fault(f"paths.{name}", f"source.rename has {name!r} too; give its path alone")
    all_keys = key_paths(source, fields)
    for name in source.paths:
        keys = all_keys[name]
        for other, at in all_keys.items():
            if other != name and at == keys[: len(at)]:
                raise fault(f"paths.{name}", f"{'.'.join(keys)!r} is within {'.'.join(at)!r}, which is the value of {other!r}")
