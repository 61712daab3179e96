"""Finds a column that lists the items of a line with their labels, such as `n55-1 n35-0`, and makes rows of its elements."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from ml.sketch.columns import Column, SampledLog

ITEM, LABEL = "item", "clicked"
_SEPARATORS, _MARKS = " ,;|", "-:_="


@dataclass(frozen=True)
class LabelledItems:
    """A column of items with labels.

    Attributes:
        field: Its name.
        separator: Separates the elements.
        mark: Separates the item of an element from its label, 0 or 1.
        histories: Columns that list items of the same kind without labels.
    """

    field: str
    separator: str
    mark: str
    histories: tuple[str, ...]

    @property
    def keys(self) -> dict[str, Any]:
        """The keys of `source` that make a row of each element."""
        return {"list_separator": self.separator, "part_separator": self.mark, "explode": {self.field: [ITEM, LABEL]}}


def find_labelled_items(log: SampledLog) -> LabelledItems | None:
    """Find the column of a log whose values all list items with labels; None if there is none, or more than one."""
    if {ITEM, LABEL} & {column.name for column in log.columns}:
        return None
    found = [of for column in log.columns for of in _ways(column)]
    if len(found) != 1:
        return None
    field, separator, mark = found[0]
    items = {element.rpartition(mark)[0] for element in _elements(log[field], separator)}
    histories = [c.name for c in log.columns if c.name != field and c.kind == "string" and _is_history(c, separator, items)]
    return LabelledItems(field, separator, mark, tuple(histories))


def exploded(log: SampledLog, found: LabelledItems) -> SampledLog:
    """Return the columns as they are in rows of one item each: the item and its label in the place of the field."""
    columns: list[Column] = []
    for column in log.columns:
        if column.name == found.field:
            parts = [element.rpartition(found.mark) for element in _elements(column, found.separator)]
            columns.append(Column(ITEM, "string", len(parts), tuple(item for item, _, _ in parts)))
            columns.append(Column(LABEL, "int", len(parts), tuple(int(label) for _, _, label in parts)))
        else:
            columns.append(replace(column, kind="list<string>") if column.name in found.histories else column)
    notes = {**log.notes, "explode": f"each element is an item with its label behind {found.mark!r}"}
    return replace(log, columns=tuple(columns), notes=notes)


def _ways(column: Column) -> Iterator[tuple[str, str, str]]:
    if column.kind != "string" or column.nested or not column.values:
        return
    for separator in _SEPARATORS:
        elements = list(_elements(column, separator))
        if len(elements) < 1.3 * len(column.values):  # lists have several elements, mostly
            continue
        for mark in _MARKS:
            form = re.compile(rf"[^{re.escape(separator)}]+{re.escape(mark)}[01]")
            if all(map(form.fullmatch, elements)) and len({element[-1] for element in elements}) == 2:
                yield column.name, separator, mark


def _elements(column: Column, separator: str) -> Iterator[str]:
    return (element for value in column.values for element in value.split(separator) if element)


def _is_history(column: Column, separator: str, items: set[str]) -> bool:
    elements = list(_elements(column, separator))
    return len(elements) >= 1.3 * len(column.values) > 0 and sum(e in items for e in elements) >= 0.3 * len(elements)
