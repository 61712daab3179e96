"""A dataset with two logs, impressions and actions, as a catalog entry."""

from __future__ import annotations

import copy
from typing import Any

from ml.catalog.spec import DatasetSpec

ENTRY: dict[str, Any] = {
    "name": "feed",
    "description": "Impressions of a feed, and what users did.",
    "source": {
        "files": "impressions-%Y-%m-%d.jsonl",
        "format": "jsonl",
        "columns": {"shown_at": "int", "request": "string", "item": "int", "user": "int", "price": "float"},
    },
    "time": {"column": "shown_at", "unit": "ms"},
    "partitions": {"start": "2026-03-01", "end": "2026-03-03"},
    "actions": {
        "source": {
            "files": "actions-%Y-%m-%d.jsonl",
            "format": "jsonl",
            "columns": {"at": "int", "request": "string", "item": "int", "kind": "string"},
        },
        "time": {"column": "at", "unit": "ms"},
        "key": ["request", "item"],
        "type": "kind",
        "lateness_minutes": 10,
        "labels": {
            "clicked": {"types": ["click"], "within_minutes": 30},
            "bought": {"types": ["buy", "order"], "within_hours": 2},
        },
    },
    "label": {"column": "clicked"},
    "user": "user",
    "item": "item",
    "dense": ["price"],
    "sparse": ["user", "item"],
}


def feed_entry(**changes: Any) -> dict[str, Any]:
    """Returns the entry with some keys replaced; a dict replaces keys of a dict, and None removes a key."""
    return _changed(ENTRY, changes)


def feed(**changes: Any) -> DatasetSpec:
    """Returns the dataset, with some keys replaced as by `feed_entry`."""
    return DatasetSpec.model_validate(feed_entry(**changes))


def _changed(entry: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    found = copy.deepcopy(entry)
    for key, value in changes.items():
        if value is None:
            found.pop(key, None)
        else:
            found[key] = _changed(found.get(key) or {}, value) if isinstance(value, dict) else value
    return found
