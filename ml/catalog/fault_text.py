"""Texts of pydantic's errors for users."""

from __future__ import annotations

import types
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel

from ml.catalog.document import shown
from ml.catalog.renamed import RENAMED
from ml.catalog.strict import FAULT, FEATURE_NAME

_EXPECTED = {
    "int_type": "expected an integer",
    "int_parsing": "expected an integer",
    "int_from_float": "expected an integer",
    "float_type": "expected a number",
    "float_parsing": "expected a number",
    "bool_type": "expected true or false",
    "bool_parsing": "expected true or false",
    "string_type": "expected text",
    "date_type": "expected a date such as 2025-03-01",
    "date_parsing": "expected a date such as 2025-03-01",
    "date_from_datetime_parsing": "expected a date such as 2025-03-01",
    "date_from_datetime_inexact": "expected a date such as 2025-03-01",
    "dict_type": "expected keys with values",
    "model_type": "expected keys with values",
    "tuple_type": "expected a list",
    "list_type": "expected a list",
    "finite_number": "expected a finite number",
}
_PHRASES = (
    ("Input should be", "expected"),
    ("Value should", "expected to"),
    ("String should have", "expected text with"),
    ("greater than or equal to", "at least"),
    ("less than or equal to", "at most"),
)

PATTERNS = {
    r"^[a-z][a-z0-9_]*$": "lower-case letters, digits and _, starting with a letter",
    r"^[a-z][a-z0-9_-]*$": "lower-case letters, digits, _ and -, starting with a letter",
    FEATURE_NAME: "a name without spaces and without any of . / : * ? [ ] { } \\",
    r"^[^.]+(\.[^.]+)+$": "the keys of a path with dots between them, such as user.id",
    r"^[\w-]+$": "letters, digits, _ and -",
    r"^[A-Za-z0-9._-]{1,249}$": "the name of a topic: at most 249 letters, digits, dots, _ and -",
    r"^[\t -~]$": "one ASCII character, or a tab",
}
"""What the patterns of keys mean, in words."""


def what_is_wrong(found: Any, model: type[BaseModel] | None) -> str:
    """Returns what one of pydantic's errors says, without the key: what was expected, and what was found.

    Args:
        found: An item of `ValidationError.errors()`.
        model: The model that was validated, whose keys are suggested in place of unknown ones.
    """
    kind, value = found["type"], shown(found["input"])
    if kind == FAULT:
        return found["msg"]
    if kind == "value_error":
        return found["msg"].removeprefix("Value error, ")
    if kind == "union_tag_not_found":
        return f"`kind` is missing, found {value}"
    if kind == "missing":
        field = _fields(model, found["loc"][:-1]).get(str(found["loc"][-1]))
        return f"missing; expected: {field.description}" if field is not None and field.description else "missing"
    if kind == "extra_forbidden" and (key := str(found["loc"][-1])) in RENAMED:
        return f"{key} is now {RENAMED[key]}"
    if kind == "extra_forbidden":
        known = list(_fields(model, found["loc"][:-1]))
        near = get_close_matches(str(found["loc"][-1]), known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; the keys here are {known}" if known else ""
        return f"unknown key, found {value}{hint}"
    said = _EXPECTED.get(kind) or found["msg"]
    if kind == "string_pattern_mismatch":
        said = f"expected {PATTERNS[found['ctx']['pattern']]}"
    for theirs, ours in _PHRASES:
        said = said.replace(theirs, ours)
    return f"{said[0].lower()}{said[1:]}, found {value}"


def _fields(model: type[BaseModel] | None, loc: Sequence[str | int]) -> dict[str, Any]:
    """Fields of the model at `loc` below `model`; empty if there is no model."""
    at: Any = model
    for key in loc:
        if _is_model(at):
            field = _by_key(at).get(str(key))
            at = field.annotation if field else None
        elif get_origin(at) in (tuple, list, dict):
            at = next((part for part in get_args(at) if _is_model(part)), None)
        if get_origin(at) in (Union, types.UnionType):
            at = next((part for part in get_args(at) if part is not type(None)), None)
    return _by_key(at) if _is_model(at) else {}


def _by_key(model: type[BaseModel]) -> dict[str, Any]:
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
