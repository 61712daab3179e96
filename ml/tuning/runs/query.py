"""Filters and order of lists of training runs.

A field is a name such as `state`, or a path such as `values.auc.value` or `assignments.lr`. Filters are applied to rows of one
project or client, in Python: JSON columns compare differently in SQLite and PostgreSQL.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ml.tuning.errors import ApiError, invalid
from ml.tuning.runs.fields import STATES
from ml.tuning.values import Reader, as_identity

Row = Mapping[str, Any]

OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
ISNULL = "isnull"
IDS = ("id", "client", "experiment", "observation", "suggestion")
TIMES = ("created", "updated", "completed", "finished")
FLAGS = ("deleted", "favorite")
TEXTS = ("name", "state", "model.type", "source_code.content", "source_code.hash")
MAX_FILTERS = 50


@dataclass(frozen=True)
class Field:
    """A field of a run by which lists are filtered and sorted.

    Attributes:
        name: Its path.
        kind: `id`, `time`, `flag`, `text`, `number`, or `any` for a value of metadata.
    """

    name: str
    kind: str

    def value(self, row: Row) -> Any:
        """Return the value in a run; None if the run does not have it."""
        if self.name == "user":
            return None
        if self.kind == "time":
            time = row["completed" if self.name == "finished" else self.name]
            return None if time is None else int(time)
        head, *rest = self.name.split(".")
        found = row[head]
        if rest:
            leaf = rest.pop() if head in ("logs", "values") else None
            for key in ([".".join(rest)] if rest else []) + ([leaf] if leaf else []):
                found = found.get(key) if isinstance(found, Mapping) else None
        return found


def field_of(name: str, path: str) -> Field:
    """Return the field with a name.

    Args:
        name: Path of the field.
        path: Key path of the parameter that names it, for the error.

    Raises:
        ApiError: There is no such field.
    """
    for kind, names in (("id", (*IDS, "user")), ("time", TIMES), ("flag", FLAGS), ("text", TEXTS)):
        if name in names:
            return Field(name, kind)
    head, *rest = name.split(".")
    if head in ("assignments", "metadata") and rest:
        return Field(name, "any")
    if head == "logs" and len(rest) > 1 and rest[-1] == "content":
        return Field(name, "text")
    if head == "values" and len(rest) > 1 and rest[-1] in ("value", "value_stddev"):
        return Field(name, "number")
    raise invalid(path, f"{name!r} is not a field of training runs")


@dataclass(frozen=True)
class Filter:
    """A condition that a run of a list meets.

    Attributes:
        field: The field.
        operator: One of `OPERATORS`, or `isnull`.
        value: What the field is compared with.
    """

    field: Field
    operator: str
    value: Any = None

    def accepts(self, row: Row) -> bool:
        """Whether a run meets the condition. A run without the field meets only `isnull`."""
        value = self.field.value(row)
        if self.operator == ISNULL:
            return value is None
        if value is None or isinstance(value, str) != isinstance(self.value, str):
            return False
        return OPERATORS[self.operator](value, self.value)


def read_filters(text: str | None) -> list[Filter]:
    """Read the query parameter `filters`.

    Args:
        text: JSON list of objects with `field`, `operator` and `value`; None for no filters.

    Raises:
        ApiError: It is not valid.
    """
    if not text:
        return []
    try:
        items = json.loads(text)
    except (ValueError, RecursionError):
        raise ApiError(400, "filters: must be a JSON list") from None
    if not isinstance(items, list):
        raise invalid("filters", "must be a JSON list")
    if len(items) > MAX_FILTERS:
        raise invalid("filters", f"has more than {MAX_FILTERS} items")
    return [_read_filter(item, f"filters[{index}]") for index, item in enumerate(items)]


def _read_filter(item: Any, path: str) -> Filter:
    reader = Reader(item, path)
    field = field_of(reader.text("field"), reader.path("field"))
    compare = reader.text("operator", choices=(*OPERATORS, ISNULL))
    raw = reader.raw("value")
    reader.close()
    if field.name == "state" and compare != "==":
        raise reader.error("operator", "state can only be compared with ==")
    if compare == ISNULL:
        return Filter(field, ISNULL)
    value = _operand(field, raw, reader)
    if isinstance(value, bool) and compare not in ("==", "!="):
        raise reader.error("operator", f"true and false cannot be compared with {compare}")
    return Filter(field, compare, value)


def _operand(field: Field, raw: Any, reader: Reader) -> Any:
    """Return the value of a filter in the type of its field."""
    number = isinstance(raw, int | float) and not isinstance(raw, bool)
    if field.kind == "id":
        identity = as_identity(raw)
        if identity is None:
            raise reader.error("value", "must be an id")
        return identity
    good = {
        "time": number and float(raw).is_integer() if number else False,
        "flag": isinstance(raw, bool),
        "text": isinstance(raw, str),
        "number": number,
        "any": number or isinstance(raw, str),
    }[field.kind]
    if not good or (field.name == "state" and raw not in STATES):
        raise reader.error("value", f"is not a value of {field.name}")
    return raw


def select(rows: Iterable[Row], filters: Iterable[Filter], search: str | None) -> list[Row]:
    """Return the runs that meet all filters and whose name contains the search text, ignoring case."""
    filters, text = list(filters), (search or "").lower().strip()
    return [row for row in rows if text in row["name"].lower() and all(test.accepts(row) for test in filters)]
