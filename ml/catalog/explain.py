"""Rewrites pydantic's errors for users: file, key path, what was expected, what was found, and the line.

Only the fields of the models are used, so the same code explains datasets and recipes.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from ml.catalog.document import CatalogError, Document, shown
from ml.catalog.expand import expand_named
from ml.catalog.fault_text import what_is_wrong
from ml.catalog.strict import FAULT

Key = str | int
_WORDS = {bool: "true or false", int: "an integer", float: "a number", str: "text", date: "a date such as 2025-03-01"}


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
        what = what_is_wrong(found, model)
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
