"""Rewrites pydantic's errors for users: file, key path, what was expected, what was found, and the line.

Only the fields of the models are used, so the same code explains datasets and recipes.
"""

from __future__ import annotations

import types
from collections.abc import Sequence
from datetime import date, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from ml.catalog.document import CatalogError, Document, shown
from ml.catalog.expand import expand_named
from ml.catalog.renamed import RENAMED
from ml.catalog.strict import FAULT

Key = str | int
_WORDS = {bool: "true or false", int: "an integer", float: "a number", str: "text", date: "a date such as 2025-03-01"}
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
    r"^[^.\s/:*?\[\]{}\\]+$": "a name without spaces and without any of . / : * ? [ ] { } \\",
    r"^[\w-]+$": "letters, digits, _ and -",
    r"^[\t -~]$": "one ASCII character, or a tab",
}
"""What the patterns of keys mean, in words."""


def explain(
    path: Path, error: ValidationError, model: type[BaseModel] | None = None, document: Document | None = None
) -> CatalogError:
    """Converts a validation error into one line per fault.

    Args:
        path: The file that was validated.
        error: The error that pydantic raised.
        model: The model that was validated, whose keys are suggested in place of unknown ones.
        document: The file's contents, to add the line of each fault.
    """
    lines = []
    faults = error.errors(include_url=False)
    for found in faults:
        if found["type"] == "too_short" and any(
            f["loc"][: len(found["loc"])] == found["loc"] for f in faults if f is not found
        ):
            continue  # pydantic counts valid entries only; the others have their own lines
        keys = [*found["loc"], *_steps(found.get("ctx", {}).get("key", "") if found["type"] == FAULT else "")]
        what = _what(found, model)
        lines.append(describe(path, keys, what, document))
    return CatalogError("\n".join(dict.fromkeys(lines)))


def describe(path: Path, keys: Sequence[Key], what: str, document: Document | None = None) -> str:
    """Formats one fault: file, key path, what is wrong, and the line."""
    if keys and keys[-1] == "[key]":  # pydantic's marker for an error in the key itself, not in its value
        keys, what = keys[:-2], f"name {shown(keys[-2])}: {what}"
    data = document.data if document else {}
    spelled, written = _as_written(data, keys)
    line = f" (line {document.line(written)})" if document else ""
    return f"{path}: {'.'.join(_short(key) for key in spelled) or '(top)'}: {what}{line}"


def _short(key: Key) -> str:
    return str(key) if len(str(key)) <= 60 else f"{str(key)[:57]}..."


def _what(found: Any, model: type[BaseModel] | None) -> str:
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


def _fields(model: type[BaseModel] | None, loc: Sequence[Key]) -> dict[str, Any]:
    """Fields of the model at `loc` below `model`; empty if there is no model."""
    at: Any = model
    for key in loc:
        if _is_model(at):
            field = at.model_fields.get(str(key))
            at = field.annotation if field else None
        elif get_origin(at) in (tuple, list, dict):
            at = next((part for part in get_args(at) if _is_model(part)), None)
        if get_origin(at) in (Union, types.UnionType):
            at = next((part for part in get_args(at) if part is not type(None)), None)
    return dict(at.model_fields) if _is_model(at) else {}


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _steps(key: str) -> list[Key]:
    return [int(step) if step.isdigit() else step for step in key.split(".")] if key else []


def _as_written(data: Any, keys: Sequence[Key]) -> tuple[list[Key], list[Key]]:
    """The path of a feature with the feature's name, for the message, and with its position in the file, for the line.

    They differ because ranges are expanded: the fourteenth feature may be the second entry in the file.
    """
    spelled: list[Key] = list(keys)
    if len(keys) < 2 or keys[0] not in ("dense", "sparse") or not isinstance(data.get(keys[0]), list):
        return spelled, spelled
    place = 0
    for written, entry in enumerate(data[keys[0]]):
        try:
            expanded = expand_named({"all": [entry]}, "all")["all"]
        except ValueError:
            return spelled, spelled
        for one in expanded:
            name = one.get("name") if isinstance(one, dict) else None
            if keys[1] in (place, name) and isinstance(name, str) and name:
                return [keys[0], name, *keys[2:]], [keys[0], written, *keys[2:]]
            place += 1
    return spelled, spelled


def coercions(said: Any, meant: Any, keys: tuple[Key, ...] = ()) -> list[tuple[tuple[Key, ...], str]]:
    """Finds values that pydantic converted, such as '7' to 7 or a time to its day.

    Args:
        said: The data of the file, with ranges expanded.
        meant: The validated model, dumped.
        keys: Path of both below the top.

    Returns:
        Pairs of a key path and what was expected there.
    """
    if isinstance(said, dict) and isinstance(meant, dict):
        return [fault for key, value in said.items() if key in meant for fault in coercions(value, meant[key], (*keys, key))]
    if isinstance(said, list) and isinstance(meant, list | tuple):
        pairs = enumerate(zip(said, meant, strict=True))
        return [fault for i, (value, other) in pairs for fault in coercions(value, other, (*keys, i))]
    return [] if _same(said, meant) else [(keys, f"expected {_WORDS.get(type(meant), meant)}, found {shown(said)}")]


def _same(said: Any, meant: Any) -> bool:
    if isinstance(meant, date):
        return said == meant.isoformat() or (not isinstance(said, datetime) and said == meant)
    if isinstance(said, bool) or isinstance(meant, bool):
        return said is meant
    return said == meant
