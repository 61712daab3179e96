"""Where the values of columns are in files whose values have names: keys of JSON, fields of Parquet, and what is within them.

Declarations only. `ml.logs.text.json_keys` and `ml.logs.text.value_types` follow the paths.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import TYPE_CHECKING

from ml.catalog.strict import fault
from ml.catalog.value_text import as_text

if TYPE_CHECKING:
    from ml.catalog.reading import ColumnType, Source


class Each(Enum):
    """A step of a path that goes to each element of a list."""

    ELEMENT = "each element"


EACH = Each.ELEMENT
KeyPath = tuple[str | Each, ...]
"""The keys that lead to a value; `EACH` stands between the key of a list of objects and the keys within these objects."""


def dotted(path: Iterable[str | Each]) -> str:
    """Returns a path as entries write it.

    >>> dotted(("page", "items", EACH, "id"))
    'page.items.id'
    """
    return ".".join(key for key in path if not isinstance(key, Each))


def object_lists(source: Source) -> dict[str, tuple[str, ...]]:
    """Returns the fields of `explode` whose elements are objects, with the columns that their values give.

    The elements of a field are objects if one of its columns has a path. A column with the name of the field does not count,
    because its path leads to the field.
    """
    within = source.paths or {}
    exploded = (source.explode or {}).items()
    return {name: columns for name, columns in exploded if any(one != name and one in within for one in columns)}


def key_paths(source: Source, fields: Iterable[str]) -> dict[str, KeyPath]:
    """Returns the path of the value of each field of a source. A column of `object_lists` has a list of values there."""
    own, paths = {new: old for old, new in source.rename.items()}, source.paths or {}

    def keys_of(name: str) -> tuple[str, ...]:
        return tuple(paths[name].split(".")) if name in paths else (own.get(name, name),)

    found: dict[str, KeyPath] = {name: keys_of(name) for name in fields}
    for name, columns in object_lists(source).items():
        depth = len(keys_of(name))
        found |= {one: (*keys_of(one)[:depth], EACH, *keys_of(one)[depth:]) for one in columns if one in found}
    return found


def with_shared_keys(source: Source, fields: dict[str, ColumnType]) -> dict[str, ColumnType]:
    """Returns the types of the fields of a file, with text for numbers whose last key of a path is also that of a text.

    The reader of JSON makes texts of all numbers with such a key.
    """
    if source.paths is None or source.format != "jsonl":
        return fields
    keys = key_paths(source, fields)
    texts = {keys[name][-1] for name, kind in fields.items() if kind in ("string", "list<string>")}
    numbers = ("int", "float", "list<int>", "list<float>")
    return {name: as_text(kind) if keys[name][-1] in texts and kind in numbers else kind for name, kind in fields.items()}


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
    lists = object_lists(source)
    fields = [*fields, *lists]
    for name in source.paths:
        if name not in fields:
            raise fault(f"paths.{name}", f"no column {name!r}; the columns are {fields}")
        if name in source.rename.values():
            raise fault(f"paths.{name}", f"source.rename has {name!r} too; give its path alone")
    all_keys = key_paths(source, fields)
    for name, columns in lists.items():
        _check_objects(source, name, columns, all_keys)
    for name in source.paths:
        keys = all_keys[name]
        for other, at in all_keys.items():
            if other != name and at == keys[: len(at)] and name not in lists.get(other, ()):
                raise fault(f"paths.{name}", f"{dotted(keys)!r} is within {dotted(at)!r}, which is the value of {other!r}")


def _check_objects(source: Source, name: str, columns: Iterable[str], all_keys: dict[str, KeyPath]) -> None:
    """Checks that the columns of a list of objects have paths within it."""
    assert source.paths is not None
    list_path = all_keys[name]
    for i, column in enumerate(columns):
        if column not in source.paths or column == name:
            way_out = f"give its path, such as `paths: {{{column}: {dotted(list_path)}.<key>}}`"
            raise fault(f"explode.{name}.{i}", f"other columns of {name!r} are within objects, but not {column!r}; {way_out}")
        keys = dotted(all_keys[column])
        if not keys.startswith(f"{dotted(list_path)}."):
            raise fault(f"paths.{column}", f"{keys!r} is not within {dotted(list_path)!r}, whose objects become rows")
