"""Finds a list of objects in each line, which are the shown items with their labels, and makes rows of the objects."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from ml.sketch.columns import Column, SampledLog
from ml.sketch.names import WORDS, thing_of, words_of
from ml.sketch.object_columns import columns_of_objects
from ml.sketch.parallel_lists import of_one
from ml.sketch.roles import Roles


@dataclass(frozen=True, eq=False)
class ObjectList:
    """A list of objects.

    Attributes:
        field: Name of its column.
        columns: The columns of the objects, [values of all objects].
        paths: Name -> path of each of them, from the beginning of a line.
        reason: Why each object becomes a row.
    """

    field: str
    columns: tuple[Column, ...]
    paths: dict[str, str]
    reason: str

    @property
    def keys(self) -> dict[str, Any]:
        """The keys of `source` that make a row of each object."""
        return {"explode": {self.field: [column.name for column in self.columns]}}

    def exploded(self, log: SampledLog) -> SampledLog:
        """Return the columns as they are in rows of one object each: its columns in the place of the list."""
        columns: list[Column] = []
        for column in log.columns:
            columns += self.columns if column.name == self.field else [column]
        notes = {**log.notes, "explode": self.reason}
        return replace(log, columns=tuple(columns), paths={**log.paths, **self.paths}, notes=notes)


def find_object_list(log: SampledLog, roles: Roles, decimal: bool) -> ObjectList | None:
    """Find the list of objects of a log.

    Args:
        log: The sample.
        roles: What the columns of lines are.
        decimal: Whether whole numbers with a point are ints that `source.decimal_ints` reads, as in JSON.

    Returns:
        The only list whose objects have labels, or that names items, if lines have neither labels nor items; else None.
    """
    lists = [found for column in log.columns if (found := _objects_of(column, log, decimal)) is not None]
    whys = {one: f"{label} looks like the label" for one in lists if (label := _label_of(one))}
    if not whys and roles.label is None and roles.item is None:
        whys = {one: f"{item} names items" for one in lists if (item := _item_of(one))}
    if len(whys) != 1:
        return None
    [(one, why)] = whys.items()
    return replace(one, reason=f"each object of {one.field} becomes a row; {why}")


def _objects_of(column: Column, log: SampledLog, decimal: bool) -> ObjectList | None:
    """The columns of a list of objects; None if a column is none, or its values cannot be columns."""
    lists = [json.loads(text) for text in column.values] if column.nested else []
    objects = [one for value in lists if isinstance(value, list) for one in value]
    if not objects or not all(isinstance(one, dict) for one in objects):
        return None
    names = list(dict.fromkeys(key for one in objects for key in one if key and "." not in key))
    found, within = columns_of_objects(objects, names, decimal)
    own = [one for one in found if not one.nested and not one.kind.startswith("list<")]
    root, one_of = log.paths.get(column.name, column.name), of_one(column.name)
    columns = tuple(replace(one, name=f"{one_of}_{one.name}") for one in own)
    paths = {f"{one_of}_{one.name}": f"{root}.{within.get(one.name, one.name)}" for one in own}
    if not columns or len({*paths, *(other.name for other in log.columns)}) < len(columns) + len(log.columns):
        return None
    return ObjectList(column.name, columns, paths, "")


def _label_of(found: ObjectList) -> str | None:
    """The only column with labels."""
    labels = [one.name for one in found.columns if set(one.values) == {0, 1} and words_of(one.name) & set(WORDS["label"])]
    return labels[0] if len(labels) == 1 else None


def _item_of(found: ObjectList) -> str | None:
    """The first column that names items."""
    return next((c.name for c in found.columns if c.kind in ("int", "string") and thing_of(c.name) in WORDS["item"]), None)
