"""What a client needs to know to store a click: the logs, and the columns of a row that the service cannot fill in."""

from __future__ import annotations

import math
from typing import Any

from ml.catalog.spec import DatasetSpec
from ml.retrieval.items import logged_columns


def click_schema(spec: DatasetSpec) -> dict[str, Any] | None:
    """Describe how a click on a recommended item is sent to `/events`.

    Returns:
        None for a dataset without an item. Otherwise `log` has the rows of what was shown, and `item_columns` are those of its
        columns that describe the item. `values` are added to a row that was clicked. `session` is the column of the session.
        For a dataset with a log of actions, `key` has the columns that an action shares with its impression, and `action` its
        other values. `types` has the types of the columns that a client makes up: the session, and keys.
    """
    if spec.item is None:
        return None
    session = spec.session.column if spec.session else None
    form: dict[str, Any] = {"log": "examples", "values": _positive(spec), "key": [], "action": None}
    if spec.actions is not None:
        first = next(iter(spec.actions.labels.values()))
        action = {spec.actions.type: first.types[0]} if spec.actions.type else {}
        form |= {"log": "impressions", "values": {}, "key": list(spec.actions.key), "action": action}
    columns = spec.source.columns
    made_up = [name for name in (session, *form["key"]) if name in columns and name not in (spec.item, spec.user)]
    types = {name: columns[name] for name in made_up}
    return form | {"session": session, "item_columns": logged_columns(spec), "types": types}


def _positive(spec: DatasetSpec) -> dict[str, Any]:
    """The label of a click in a single log."""
    label = spec.label
    if label.column is None:
        return {}
    if label.at_least is not None:
        is_int = spec.column_types[label.column] == "int"
        return {label.column: math.ceil(label.at_least) if is_int else label.at_least}
    if label.is_ is not None:
        return {label.column: label.is_[0]}
    return {label.column: "1" if spec.column_types[label.column] == "string" else 1}
