"""Brace ranges in catalog files: `C{1..26}` stands for twenty-six names. Spelling only; no meaning lives here."""

from __future__ import annotations

import re
from typing import Any

from ml.catalog.strict import fault

_RANGE = re.compile(r"\{(\d{1,9})\.\.(\d{1,9})\}")
MAX_RANGE = 10_000  # names, of one range and of all that stand in one place together


def expand_name(name: str) -> list[str]:
    """`I{1..3}` -> `['I1', 'I2', 'I3']`; a name without a range stands for itself. Raises `ValueError`."""
    match = _RANGE.search(name)
    if not match:
        return [name]
    low, high = int(match[1]), int(match[2])
    if not low <= high < low + MAX_RANGE:
        raise ValueError(f"{name!r:.80}: expected an ascending range of at most {MAX_RANGE} names")
    if _RANGE.search(name, match.end()):
        raise ValueError(f"{name!r:.80}: expected one range in a name")
    return [name[: match.start()] + str(i) + name[match.end() :] for i in range(low, high + 1)]


def expand_mapping(data: Any, key: str) -> Any:
    """`data[key]` with each `name{a..b}: value` spelled out; anything but a mapping is left for validation."""
    if not isinstance(data, dict) or not isinstance(data.get(key), dict):
        return data
    spelled: dict[Any, Any] = {}
    for name, value in data[key].items():
        for each in _names(name, key) if isinstance(name, str) else [name]:
            if each in spelled:
                raise fault(key, f"{each!r:.80} named more than once")
            spelled[each] = value
        _check_count(len(spelled), key)
    return {**data, key: spelled}


def expand_named(data: Any, key: str) -> Any:
    """`data[key]`, a list of mappings with a `name`, with each `name: x{a..b}` spelled out; `- x` means `- name: x`."""
    if not isinstance(data, dict) or not isinstance(data.get(key), list):
        return data
    spelled: list[Any] = []
    for entry in data[key]:
        entry = {"name": entry} if isinstance(entry, str) else entry
        if isinstance(entry, dict) and isinstance(entry.get("name"), str):
            spelled += [{**entry, "name": name} for name in _names(entry["name"], key)]
        else:
            spelled.append(entry)
        _check_count(len(spelled), key)
    return {**data, key: spelled}


def expand_dataset(data: Any) -> Any:
    """A whole catalog entry spelled out, wherever ranges may stand; once done, doing it again changes nothing."""
    data = expand_named(expand_named(data, "dense"), "sparse")
    if not isinstance(data, dict):
        return data
    for key in ("source", "expectations"):
        data = {**data, key: expand_mapping(data[key], "columns")} if key in data else data
    if isinstance(data.get("join"), list):
        tables = [
            {**table, "source": expand_mapping(table["source"], "columns")}
            if isinstance(table, dict) and "source" in table
            else table
            for table in data["join"]
        ]
        data = {**data, "join": tables}
    return data


def _names(name: str, key: str) -> list[str]:
    try:
        return expand_name(name)
    except ValueError as error:
        raise fault(key, str(error)) from error


def _check_count(count: int, key: str) -> None:
    if count > MAX_RANGE:
        raise fault(key, f"expected at most {MAX_RANGE} names in all")
