"""Proposes the keys that read values within objects of JSON, and make rows of lists of objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ml.catalog.value_paths import dotted, key_paths
from ml.logs.text.json_keys import paths_in, value_at
from ml.preflight.sample import Sample


def propose_paths(objects: Sequence[Mapping[str, Any]], paths: Mapping[str, str]) -> str:
    """Propose how columns within objects are read.

    Args:
        objects: The first lines.
        paths: Column -> path of its value, such as `user.id`, or `items.id` for a list of objects.

    Returns:
        The change, as findings name it.
    """
    within, lists = dict(paths), dict[str, list[str]]()
    for column, path in paths.items():
        if (at := _list_of(objects, path)) is not None:
            field = at.rpartition(".")[2]
            lists.setdefault(field, []).append(column)
            within |= {field: at} if at != field else {}
    pairs = ", ".join(f"{column}: {path}" for column, path in within.items())
    if not lists:
        return f"set `paths: {{{pairs}}}`, which reads values within objects"
    exploded = ", ".join(f"{field}: [{', '.join(columns)}]" for field, columns in lists.items())
    return f"set `paths: {{{pairs}}}` and `explode: {{{exploded}}}`, which makes a row of each object of a list"


def propose_paths_of_list(sample: Sample, column: str) -> str | None:
    """Propose how a column is read whose values are within a list of objects that the entry does not read as such.

    Args:
        sample: A sample of JSON.
        column: A column with a path, or a field of `explode`.

    Returns:
        The change; None if there is no such list.
    """
    objects, path = sample.objects(), dotted(key_paths(sample.rows, [column])[column])
    if (columns := (sample.rows.explode or {}).get(column)) is not None:
        keys = {key.removeprefix(f"{path}.") for one in objects for key in paths_in(one) if key.startswith(f"{path}.")}
        # A column with the name of the field cannot have a path within it.
        guess = {f"{name}_id" if name == column else name: f"{path}.{name if name in keys else '<key>'}" for name in columns}
        return propose_paths(objects, guess) if keys else None
    if column in (sample.rows.paths or ()) and (at := _list_of(objects, path)) is not None:
        within = {name: of for name, of in (sample.rows.paths or {}).items() if of.startswith(f"{at}.")}
        return propose_paths(objects, within)
    return None


def _list_of(objects: Sequence[Mapping[str, Any]], path: str) -> str | None:
    """The part of a path that leads to a list; None if there is none on the way."""
    keys = tuple(path.split("."))
    parts = (keys[:depth] for depth in range(1, len(keys)))
    return next((dotted(part) for part in parts if any(isinstance(value_at(one, part), list) for one in objects)), None)
