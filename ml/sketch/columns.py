"""The columns of a sampled log: their types, and statistics from which their roles are guessed."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ml.sketch.written import are_decimal_ints, are_unsigned, fit_in_64_bits, kind_of

PARTS = "|,; "
_DECIMAL_COMMA = re.compile(r"-?\d{1,12},\d{1,12}")


@dataclass(frozen=True)
class Column:
    """A column of the sample.

    Attributes:
        name: Its name.
        kind: `int`, `float`, `string`, `bool`, or a list of these, such as `list<string>`.
        rows: Number N of rows of the sample.
        values: The values that are there, as they are read.
        nested: Whether values are lists of objects, or objects with many keys, which are no columns.
        decimal: Whether ints are written as `9.0`.
        unsigned: Whether ints are unsigned ids, some of which are beyond signed 64-bit integers.
    """

    name: str
    kind: str
    rows: int
    values: tuple[Any, ...]
    nested: bool = False
    decimal: bool = False
    unsigned: bool = False

    @property
    def counts(self) -> Counter[Any]:
        """Value -> how often it occurs."""
        return Counter(self.values)

    @property
    def missing(self) -> float:
        """Share of rows without a value."""
        return 1 - len(self.values) / max(self.rows, 1)

    @property
    def distinct(self) -> int:
        return len(set(self.values))

    @property
    def numeric(self) -> bool:
        return self.kind in ("int", "float")

    @property
    def unique(self) -> bool:
        """Whether almost all values are distinct, as in a key of the row."""
        return self.rows >= 20 and self.distinct >= 0.99 * len(self.values) > 0

    @property
    def has_decimal_commas(self) -> bool:
        """Whether all values are numbers such as `1,5`."""
        return self.kind == "string" and bool(self.values) and all(map(_DECIMAL_COMMA.fullmatch, map(str, self.values)))

    def separator(self) -> str | None:
        """The separator of a column of several parts, whose parts occur more often than whole values."""
        if self.kind != "string" or self.distinct < 2 or self.has_decimal_commas:
            return None
        for mark in PARTS:
            texts = [value for value in set(self.values) if value]
            parts = [part for text in texts for part in text.split(mark)]
            several = sum(mark in text for text in texts)
            if several >= 0.3 * len(texts) and len(set(parts)) < 0.6 * len(parts) and len(parts) < 20 * len(texts):
                return mark
        return None


@dataclass(frozen=True)
class SampledLog:
    """A sample of a log.

    Attributes:
        columns: The columns in file order.
        null_tokens: Texts that mean a missing value, besides the empty text.
        complete: Whether the sample has all rows.
        paths: Name -> path of each column that is a value within objects, for `source.paths`.
        keys: Further keys of `source` that the values need.
        notes: Key of `source` -> why it is needed.
    """

    columns: tuple[Column, ...]
    null_tokens: tuple[str, ...]
    complete: bool
    paths: Mapping[str, str] = field(default_factory=dict)
    keys: Mapping[str, Any] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def types(self) -> dict[str, str]:
        """Name -> type of each column that can be read."""
        return {column.name: column.kind for column in self.columns if not column.nested}

    def __getitem__(self, name: str) -> Column:
        """The column of a name."""
        return next(column for column in self.columns if column.name == name)


def column_of_values(name: str, values: Sequence[Any], decimal: bool = True) -> Column:
    """Make a column of values that have types, as in JSON and Parquet.

    Args:
        name: Its name.
        values: The values, [N].
        decimal: Whether whole numbers with a point are ints that `source.decimal_ints` reads; in Parquet they need no key.
    """
    rows, there = len(values), [value for value in values if value is not None]
    if there and all(isinstance(value, list) for value in there):
        elements = [element for value in there for element in value if element is not None]
        if not any(isinstance(element, dict | list) for element in elements):
            inner = column_of_values(name, elements, decimal)
            lists = tuple(tuple(value) for value in there)
            return Column(name, f"list<{inner.kind}>", rows, lists, decimal=inner.decimal, unsigned=inner.unsigned)
    if any(isinstance(value, dict | list) for value in there):
        return Column(name, "string", rows, tuple(json.dumps(value) for value in there), nested=True)
    kinds = {type(value) for value in there}
    if kinds == {bool}:
        return Column(name, "bool", rows, tuple(there))
    if kinds == {int} and fit_in_64_bits(there):
        return Column(name, "int", rows, tuple(there), unsigned=are_unsigned(there))
    if float in kinds and kinds <= {int, float}:
        if are_decimal_ints(name, there, rows):
            return Column(name, "int", rows, tuple(map(int, there)), decimal=decimal)
        return Column(name, "float", rows, tuple(there))
    return Column(name, "string", rows, tuple(map(str, there)))


def column_of_texts(name: str, texts: Sequence[str], tokens: Collection[str]) -> Column:
    """Make a column of texts, as in csv and tsv.

    Args:
        name: Its name.
        texts: The texts without blanks around them, [N].
        tokens: Texts that mean a missing value.
    """
    rows, there = len(texts), [text for text in texts if text not in tokens]
    kind = kind_of(there, ())
    if kind == "int":
        values = tuple(map(int, there))
        return Column(name, kind, rows, values, unsigned=are_unsigned(values))
    if kind == "float" and are_decimal_ints(name, there, rows):
        return Column(name, "int", rows, tuple(int(text.partition(".")[0]) for text in there), decimal=True)
    return Column(name, kind, rows, tuple(map(float, there)) if kind == "float" else tuple(there))
