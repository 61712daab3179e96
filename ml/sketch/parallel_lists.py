"""Finds lists of the same length in each row, one of which has labels, and makes rows of their elements."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ml.sketch.columns import Column, SampledLog
from ml.sketch.names import WORDS, words_of


@dataclass(frozen=True)
class ParallelLists:
    """Columns of lists, whose elements at one place belong together.

    Attributes:
        fields: Name of each column -> name of a column of its elements.
        label: Name of the column of labels.
    """

    fields: dict[str, str]
    label: str

    def keys(self, log: SampledLog) -> dict[str, Any]:
        """The keys of `source` that make a row of the elements at each place."""
        unsigned = [self.fields.get(name, name) for name in log.keys.get("unsigned", ())]
        return {"explode": {name: [column] for name, column in self.fields.items()}, "unsigned": unsigned}

    @property
    def reason(self) -> str:
        """Why each place becomes a row."""
        return f"lists of one length in each line; {self.label} looks like the label"

    def exploded(self, log: SampledLog) -> SampledLog:
        """Return the columns as they are in rows of one element each."""
        columns = tuple(self._elements(one) if one.name in self.fields else one for one in log.columns)
        return replace(log, columns=columns, notes={**log.notes, "explode": self.reason})

    def _elements(self, column: Column) -> Column:
        elements = [element for value in column.values for element in value]
        there = tuple(element for element in elements if element is not None)
        kind = column.kind.removeprefix("list<").removesuffix(">")
        return replace(column, name=self.fields[column.name], kind=kind, rows=len(elements), values=there)


def find_parallel_lists(log: SampledLog) -> ParallelLists | None:
    """Find the lists of a log; None unless exactly one of them has labels, and others have its lengths in each row."""
    lists = [column for column in log.columns if column.kind.startswith("list<") and column.values and not column.missing]
    labels = [column for column in lists if _has_labels(column)]
    if len(labels) != 1:
        return None
    lengths = [len(value) for value in labels[0].values]
    names = [column.name for column in lists if [len(value) for value in column.values] == lengths]
    if len(names) < 2 or sum(lengths) < 1.3 * len(lengths):
        return None
    fields = {name: of_one(name) for name in names}
    others = {column.name for column in log.columns if column.name not in fields}
    return ParallelLists(fields, fields[labels[0].name]) if len({*fields.values(), *others}) == len(log.columns) else None


def _has_labels(column: Column) -> bool:
    elements = {element for value in column.values for element in value}
    return elements == {0, 1} and bool(words_of(of_one(column.name)) & set(WORDS["label"]))


def of_one(name: str) -> str:
    """The name of an element of a list: `item` of `items`."""
    return name.removesuffix("s") or name
