"""Chooses the features of a sketched entry, and says which columns are left out and why."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from ml.sketch.columns import Column, SampledLog
from ml.sketch.names import feature_name, names_id
from ml.sketch.roles import Roles
from ml.sketch.times import holds_times
from ml.sketch.written import LONG

_CODES = 32  # distinct integers up to which they are taken for codes, not for quantities


@dataclass(frozen=True)
class Features:
    """The features of an entry.

    Attributes:
        dense: Keys of each dense feature.
        sparse: Keys of each sparse feature; a name alone is a string.
        left_out: Column -> why it is no feature.
    """

    dense: tuple[dict[str, Any] | str, ...]
    sparse: tuple[dict[str, Any] | str, ...]
    left_out: dict[str, str]


def find_features(log: SampledLog, roles: Roles, time: Collection[str], histories: Collection[str] = ()) -> Features:
    """Choose the features of a log.

    Args:
        log: The sample.
        roles: What columns are.
        time: The columns of the event time, from which the hour is a feature.
        histories: Columns that list items which the user took before.
    """
    dense, sparse, left_out = list[dict[str, Any] | str](), list[dict[str, Any] | str](), dict[str, str]()
    label = roles.label["column"] if roles.label else None
    for column in log.columns:
        if column.name == label or column.name in time:
            continue
        if why := _why_not(column, roles):
            left_out[column.name] = why
        elif column.numeric and column.name not in (roles.user, roles.item) and not _is_code(column):
            dense.append(_dense(column))
        elif column.name in histories:
            sparse.append({"name": column.name, "ids_of": roles.item, "max_values": 50, "keep": "last"})
        elif column.kind.startswith("list<"):
            sparse.append({"name": column.name, "max_values": 16})
        elif mark := column.separator():
            sparse.append({"name": column.name, "split": mark, "max_values": 16})
        else:
            sparse.append(column.name)
    if time:
        taken = any(column.name == "hour" for column in log.columns)
        sparse.append({"name": "hour_of_day" if taken else "hour", "hour_of_day": True})
    return Features(tuple(map(_named, dense)), tuple(map(_named, sparse)), left_out)


def _named(feature: dict[str, Any] | str) -> dict[str, Any] | str:
    """A feature with a name that it can have. Names of columns can have blanks and other characters."""
    keys = {"name": feature} if isinstance(feature, str) else dict(feature)
    column, keys["name"] = keys["name"], feature_name(keys["name"])
    if "ids_of" in keys:
        keys["ids_of"] = feature_name(keys["ids_of"])
    if keys["name"] == column:
        return feature if isinstance(feature, str) else keys
    return {"name": keys.pop("name"), "column": column, **keys}


def _why_not(column: Column, roles: Roles) -> str | None:
    if column.nested:
        return "holds objects or bytes, which are not read; `explode` makes rows of one list of objects"
    if column.kind in ("list<float>", "list<bool>"):
        return f"is {column.kind}, which features do not read"
    if column.has_decimal_commas:
        return "has numbers with a decimal comma, which are not read; write them with a point to learn from them"
    if not column.values:
        return "is always missing in the sample"
    if column.distinct == 1 and not column.missing:
        return "has one value"
    if column.name in roles.outcomes:
        return "looks like an outcome of the row; it can be a further label (`labels`)"
    if column.name == roles.session:
        return "names the session of a row"
    if column.name in roles.policy:
        return "is known to the policy that showed the item, not to a reader of requests"
    if column.name in (roles.user, roles.item):
        return None
    if holds_times(column):
        return "holds times"
    if column.unique and column.kind in ("int", "string") and not column.separator():
        return "differs in each row, like a key"
    if column.kind == "string" and np.mean([len(value) for value in column.values[:1000]]) > LONG:
        return "is free text"
    return None


def _is_code(column: Column) -> bool:
    """Whether integers are names of things. Numbers that occur often and are few or large are."""
    if column.kind != "int":
        return False
    values = np.array(column.values, np.float64)
    return column.unsigned or names_id(column.name) or (column.distinct <= _CODES and float(np.ptp(values)) < 10 * _CODES)


def _dense(column: Column) -> dict[str, Any] | str:
    values = np.array(column.values, np.float64)
    low, middle, high = values.min(), np.median(np.abs(values)), values.max()
    if low >= -10 and high > 100 and high > 10 * max(middle, 1):  # counts; a few negative ones stand for no count
        return {"name": column.name, "log1p": True} | ({"clip": [0, None]} if low < 0 else {})
    scale = float(f"{1 / np.quantile(np.abs(values), 0.95):.0e}") if np.quantile(np.abs(values), 0.95) > 5 else 1.0
    return {"name": column.name, "scale": scale} if scale != 1.0 else column.name
