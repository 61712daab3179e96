"""How the fields of a file become the columns of rows: lists in one text, and fields whose elements become rows.

Declarations only. `ml.logs.row_shape` shapes the rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from ml.catalog.strict import fault
from ml.catalog.value_paths import object_lists, with_shared_keys
from ml.catalog.value_text import DELIMITED, element_type, held_in_file

if TYPE_CHECKING:
    from ml.catalog.reading import ColumnType, Source


def field_of(source: Source) -> dict[str, str]:
    """Returns the field of the file that each exploded column comes from."""
    return {column: name for name, columns in (source.explode or {}).items() for column in columns}


def in_file(source: Source) -> Source:
    """Returns the source with the fields of its files as columns, as readers of files see them.

    A field that is exploded stands in the place of the first of its columns. A list of objects gives a list for each of its
    columns, and stays in `explode`. Columns of the path are not in the file.
    """
    fields: dict[str, ColumnType] = {}
    types = held_in_file(source)
    exploded, is_text, objects = field_of(source), source.list_separator is not None, object_lists(source)
    for name, kind in types.items():
        if name in (source.path_columns or ()):
            continue
        if exploded.get(name) in objects:
            fields[name] = cast("ColumnType", f"list<{kind}>")
        elif name in exploded:
            of_parts = len((source.explode or {})[exploded[name]]) > 1
            listed = "list<string>" if of_parts else cast("ColumnType", f"list<{kind}>")
            fields.setdefault(exploded[name], "string" if is_text else listed)
        else:
            fields[name] = "string" if is_text and element_type(kind) else kind
    fields = with_shared_keys(source, fields)
    if fields == source.columns and source.explode is None:
        return source
    columnar = source.format == "parquet"
    unsigned = tuple(name if name in fields else exploded.get(name, name) for name in source.unsigned or ())
    return source.model_copy(
        update={
            "columns": fields,
            "explode": objects or None,
            "list_separator": None,
            "part_separator": None,
            "path_columns": None,
            "trim": columnar and source.trim,
            "decimal_ints": columnar and source.decimal_ints,
            "unsigned": (columnar and unsigned) or None,
        },
    )


def check_shape(source: Source) -> None:
    """Checks the keys of lists and of exploded fields. Raises a fault that names the key below the source."""
    lists = [name for name, kind in source.columns.items() if element_type(kind)]
    if source.list_separator is None and source.format in DELIMITED and (lists or source.explode):
        key = f"columns.{lists[0]}" if lists else "explode"
        raise fault(key, f"{source.format} has lists as text only: give list_separator, such as a blank or a comma")
    if source.list_separator is not None and not (lists or source.explode):
        raise fault("list_separator", "no column is a list, such as list<string> or list<int>, and no field is exploded")
    if source.list_separator is not None and source.list_separator == source.delimiter and not source.quoted:
        raise fault("list_separator", f"{source.list_separator!r} also separates the fields of a line")
    _check_path(source)
    if source.explode is not None:
        _check_explode(source)
    objects = object_lists(source)
    parts = [name for name, columns in (source.explode or {}).items() if len(columns) > 1 and name not in objects]
    if source.part_separator is not None and not parts:
        raise fault("part_separator", "no field of explode gives several columns of one text")
    if source.part_separator is None and parts:
        way_out = f", or, if the elements are objects, the path of each column, such as `{parts[0]}.id`, in `paths`"
        ways = way_out if source.format not in DELIMITED else ""
        raise fault("part_separator", f"needed to divide elements that give several columns, as in `n55-1`{ways}")
    if source.part_separator is not None and source.part_separator == source.list_separator:
        raise fault("part_separator", f"{source.part_separator!r} is also the list_separator")


def _check_path(source: Source) -> None:
    for i, column in enumerate(source.path_columns or ()):
        if column not in source.columns:
            raise fault(f"path_columns.{i}", f"no column {column!r}; the columns are {list(source.columns)}")
        if element_type(source.columns[column]):
            raise fault(f"path_columns.{i}", f"{column!r} is {source.columns[column]}, and a folder has one value")
        if column in field_of(source):
            raise fault(f"path_columns.{i}", f"{column!r} is also a part of an exploded field; a file has one value")
    if set(source.columns) == set(source.path_columns or ()):
        raise fault("path_columns", "no column is left that is in the files")


def _check_explode(source: Source) -> None:
    assert source.explode is not None
    seen: set[str] = set()
    for name, columns in source.explode.items():
        for i, column in enumerate(columns):
            key = f"explode.{name}.{i}"
            if column not in source.columns:
                raise fault(key, f"no column {column!r}; the columns are {list(source.columns)}")
            if element_type(source.columns[column]):
                raise fault(key, f"{column!r} is {source.columns[column]}; a row has one element, so declare the type of one")
            if column in seen:
                raise fault(key, f"{column!r} is listed more than once")
            seen.add(column)
        if name in source.columns and name not in columns:
            raise fault(f"explode.{name}", f"the columns have {name!r} too, which is not a part of its elements; rename one")
        places = [list(source.columns).index(column) for column in columns]
        if places != list(range(places[0], places[0] + len(places))) and source.format in DELIMITED and not source.header:
            raise fault(f"explode.{name}", "without a header, its columns stand together and in order in source.columns")
