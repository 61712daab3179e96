"""Brace ranges in catalog files: `C{1..26}` stands for twenty-six names. Spelling only; no meaning lives here."""

from __future__ import annotations

import re
from typing import Any

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
MAX_RANGE = 10_000


def expand_name(name: str) -> list[str]:
    """`I{1..3}` -> `['I1', 'I2', 'I3']`; a name without a range stands for itself."""
    match = _RANGE.search(name)
    if not match:
        return [name]
    low, high = int(match[1]), int(match[2])
    if not low <= high < low + MAX_RANGE:
        raise ValueError(f"{name!r}: expected an ascending range of at most {MAX_RANGE} names")
    return [name[: match.start()] + str(i) + name[match.end() :] for i in range(low, high + 1)]


def expand_mapping(data: Any, key: str) -> Any:
    """`data[key]` with each `name{a..b}: value` spelled out; anything but a mapping is left for validation."""
    if not isinstance(data, dict) or not isinstance(data.get(key), dict):
        return data
    spelled: dict[Any, Any] = {}
    for name, value in data[key].items():
        for each in expand_name(name) if isinstance(name, str) else [name]:
            if each in spelled:
                raise ValueError(f"{key}: {each!r} named more than once")
            spelled[each] = value
    return {**data, key: spelled}


def expand_named(data: Any, key: str) -> Any:
    """`data[key]`, a list of mappings with a `name`, with each `name: x{a..b}` spelled out; `- x` means `- name: x`."""
    if not isinstance(data, dict) or not isinstance(data.get(key), list):
        return data
    spelled: list[Any] = []
    for entry in data[key]:
        entry = {"name": entry} if isinstance(entry, str) else entry
        if isinstance(entry, dict) and isinstance(entry.get("name"), str):
            spelled += [{**entry, "name": name} for name in expand_name(entry["name"])]
        else:
            spelled.append(entry)
    return {**data, key: spelled}
