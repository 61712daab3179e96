"""Converts values of requests as the log reader does for `source.unsigned` and `source.trim`.

Null tokens are replaced in trimmed columns only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Self

from ml.catalog.reading import Source
from ml.catalog.spec import DatasetSpec
from ml.catalog.value_text import element_type
from ml.logs.typed_columns import ValueRules
from ml.serving.forms import INT64, UINT64

MOST_DIGITS = 100
"""Most characters of an integer as a text: 64 bits need 20, with blanks around them. `int` reads at most 4,300 digits."""


class AsLogged:
    """Reads values of requests as a log with `source.unsigned` or `source.trim` is read.

    Args:
        sources: Sources, each with those of their columns that requests can have.

    Example:
        >>> source = Source(files="a", format="csv", columns={"user": "int", "page": "string"}, unsigned=["user"], trim=True)
        >>> logged = AsLogged([(source, source.columns)])
        >>> logged.row({"user": 2**64 - 1, "page": " home "})
        {'user': -1, 'page': 'home'}
        >>> logged.as_given("user", -1)
        18446744073709551615
    """

    def __init__(self, sources: Iterable[tuple[Source, Iterable[str]]]) -> None:
        self._trimmed: dict[str, ValueRules] = {}
        self._unsigned: set[str] = set()
        for source, names in sources:
            for name in names:
                kind, rules = source.columns[name], ValueRules.of(source, name)
                if rules.unsigned:
                    self._unsigned.add(name)
                elif rules.trim and (element_type(kind) or kind) == "string":
                    self._trimmed[name] = rules

    @classmethod
    def of(cls, spec: DatasetSpec) -> Self:
        """Read the columns of a dataset: those of its log, and those that are joined to it."""
        return cls([(spec.source, spec.source.columns), *((side.source, side.columns) for side in spec.join)])

    def value(self, column: str | None, value: Any) -> Any:
        """Return a value of a column, or a list of values, as the lake holds it. Values of other types stay as they are."""
        if column not in self._unsigned and column not in self._trimmed:
            return value
        if isinstance(value, list):
            return [self.value(column, element) for element in value]
        if column in self._unsigned:
            if isinstance(value, str) and len(value) <= MOST_DIGITS and value.strip().isdecimal():
                value = int(value)
            return value - UINT64 if isinstance(value, int) and INT64 <= value < UINT64 else value
        text = value.strip() if isinstance(value, str) else value
        return None if text in self._trimmed[column].null_tokens else text

    def row(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return a row, or lists of values by column, as the lake holds them."""
        return {name: self.value(name, value) for name, value in values.items()}

    def as_given(self, column: str | None, value: Any) -> Any:
        """Return a value of the lake as the log has it: unsigned ids without a sign."""
        if isinstance(value, list) and column in self._unsigned:
            return [self.as_given(column, element) for element in value]
        return value + UINT64 if column in self._unsigned and isinstance(value, int) and value < 0 else value

    def row_as_given(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return a row of the lake as the log has it."""
        return {name: self.as_given(name, value) for name, value in values.items()}
