"""Expands what catalog files and recipes abbreviate: `C{1..26}` becomes twenty-six names, `{log: ...}` edges of buckets.

Only this module knows where abbreviations are allowed.
"""

from __future__ import annotations

import re
from typing import Any

from ml.catalog.buckets import edges_of
from ml.catalog.strict import fault

_RANGE = re.compile(r"\{(\d{1,9})\.\.(\d{1,9})\}")
MAX_RANGE = 10_000  # names of one range, and of all ranges under one key together


def expand_name(name: str) -> list[str]:
    """Expands the range in a name.

    Example:
        >>> expand_name("I{1..3}")
        ['I1', 'I2', 'I3']
        >>> expand_name("price")
        ['price']

    Raises:
        ValueError: The range is not ascending, is too long, or is not the only one.
    """
    match = _RANGE.search(name)
    if not match:
        return [name]
    low, high = int(match[1]), int(match[2])
    if not low <= high < low + MAX_RANGE:
        raise ValueError(f"{name!r:.80}: expected an ascending range of at most {MAX_RANGE} names")
    if _RANGE.search(name, match.end()):
        raise ValueError(f"{name!r:.80}: expected one range in a name")
    return [name[: match.start()] + str(i) + name[match.end() :] for i in range(low, high + 1)]


def expand_entry(data: Any) -> Any:
    """Expands all ranges of a catalog entry, or of a single log: in the names of features and of columns.

    Anything malformed is returned as it is, for validation to refuse. Expanding twice is the same as expanding once.

    Raises:
        PydanticCustomError: A range is not valid, or gives a name twice; the fault names the key.
    """
    if not isinstance(data, dict):
        return data
    data = expand_named(expand_named(data, "dense"), "sparse")
    for key in ("source", "expectations"):
        data = {**data, key: _expand_keys(data[key], "columns", key)} if key in data else data
    actions = data.get("actions")
    if isinstance(actions, dict) and "source" in actions:
        data = {**data, "actions": {**actions, "source": _expand_keys(actions["source"], "columns", "actions.source")}}
    if isinstance(data.get("join"), list):
        tables = [
            {**table, "source": _expand_keys(table["source"], "columns", f"join.{i}.source")}
            if isinstance(table, dict) and "source" in table
            else table
            for i, table in enumerate(data["join"])
        ]
        data = {**data, "join": tables}
    return data


def expand_recipe(data: Any) -> Any:
    """Expands all ranges of a recipe, as `expand_entry` does: in the names of tables and of excluded features."""
    if not isinstance(data, dict):
        return data
    for section, key in (("tables", "features"), ("export", "tables")):
        data = {**data, section: _expand_keys(data[section], key, section)} if section in data else data
    if isinstance(names := data.get("exclude_features"), list | tuple):
        expanded = [each for name in names for each in (_names(name, "exclude_features") if isinstance(name, str) else [name])]
        _check_count(len(expanded), "exclude_features")
        data = {**data, "exclude_features": expanded}
    return data


def expand_named(data: Any, key: str) -> Any:
    """Expands the list `data[key]` of mappings with a `name`, one mapping for each name; `- x` means `- name: x`.

    Ranges in `column` and in the columns of `cross` are expanded beside the range of the name, one column for each name.
    """
    if not isinstance(data, dict) or not isinstance(data.get(key), list):
        return data
    expanded: list[Any] = []
    for entry in data[key]:
        entry = {"name": entry} if isinstance(entry, str) else entry
        if isinstance(entry, dict) and isinstance(entry.get("name"), str):
            expanded += _expand_feature(entry, key)
        else:
            expanded.append(entry)
        _check_count(len(expanded), key)
    return {**data, key: expanded}


def _expand_feature(entry: dict[Any, Any], key: str) -> list[dict[Any, Any]]:
    names = _names(entry["name"], key)
    path = f"{key}.{names[0]}"
    if "bucketise" in entry:
        entry = {**entry, "bucketise": edges_of(entry["bucketise"], f"{path}.bucketise")}
    features = [{**entry, "name": name} for name in names]
    if isinstance(column := entry.get("column"), str):
        for feature, each in zip(features, _columns(column, len(names), f"{path}.column"), strict=True):
            feature["column"] = each
    if isinstance(cross := entry.get("cross"), list | tuple) and all(isinstance(column, str) for column in cross):
        columns = [_columns(column, len(names), f"{path}.cross") for column in cross]
        for feature, each in zip(features, zip(*columns, strict=True), strict=False):
            feature["cross"] = list(each)
    return features


def _columns(column: str, count: int, path: str) -> list[str]:
    """Expands the range in a column to one column for each of `count` features; a column without a range is in all of them."""
    columns = _names(column, path)
    if columns == [column]:
        return [column] * count
    if len(columns) != count:
        raise fault(path, f"{column!r:.80} gives {len(columns)} columns, and the feature's name gives {count} names")
    return columns


def _expand_keys(data: Any, key: str, parent: str) -> Any:
    """Expands the names in the mapping `data[key]`, which is `<parent>.<key>` in the file."""
    if not isinstance(data, dict) or not isinstance(data.get(key), dict):
        return data
    path = f"{parent}.{key}"
    expanded: dict[Any, Any] = {}
    for name, value in data[key].items():
        for each in _names(name, path) if isinstance(name, str) else [name]:
            if each in expanded:
                raise fault(path, f"{each!r:.80} is named more than once")
            expanded[each] = value
        _check_count(len(expanded), path)
    return {**data, key: expanded}


def _names(name: str, path: str) -> list[str]:
    try:
        return expand_name(name)
    except ValueError as error:
        raise fault(path, str(error)) from error


def _check_count(count: int, path: str) -> None:
    if count > MAX_RANGE:
        raise fault(path, f"expected at most {MAX_RANGE} names in all")
